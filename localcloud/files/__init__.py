"""Azure Files of the local cloud: shares as directories on this machine, served as Azure serves them.

`FileService` is the whole interface. A share is a real directory, `root/<account>/<share>`, which a replica
mounts and reads and writes directly; the disk is the truth about names, sizes and times of writing, and what
it cannot hold is kept beside it (see `sidecar`). The real `az storage` and the real SDK drive it, path-style:
`https://localhost:PORT/<account>`.

Not emulated, and refused with 501 `NotImplementedByLocalCloud`:

* share snapshots, soft delete, stored access policies, File service properties, user delegation keys and
  their SAS;
* NFS shares: owner, group, mode, symbolic and hard links; provisioned shares and bursting; SMB directory
  leases;
* file permissions (SDDL): every entry inherits one, whose key is always the same;
* CRC64 checksums and structured bodies; the property semantics `Restore`;
* copies from another account or from blobs, and OAuth for a copy's source.

Refused otherwise: OAuth tokens (403: no identity holds a data role), SharedKeyLite (400), condition headers
(400), `x-ms-` headers and parameters that an operation does not have (400), CORS preflights (401).

Different from Azure, and not refused:

* A quota is kept and told but not enforced; there is no throttling.
* There is no SMB: no open handles, no SharingViolation by a replica that has a file open.
* A directory is renamed whatever leases the files in it have.
* A copy is done when it is answered; deletion of a share is immediate (never ShareBeingDeleted).
* A link that a replica made is listed as the small file that it is, can be renamed and deleted, and is never
  followed; reading or writing it is refused with ResourceTypeMismatch.
* A name that a replica made and Azure forbids is listed but cannot be asked for.
* A name that needs more bytes than the disk's names have (255) is refused, though Azure counts UTF-16 units.
* Changes that a replica makes to a file drop its recorded properties; Azure would keep them. A change that
  keeps the size and falls within one tick of the kernel's clock after a change of ours is not noticed.
"""

from localcloud.files.service import AccountKeys, FileService

__all__ = ["AccountKeys", "FileService"]
