"""Azure Files of the local cloud: shares are directories on this machine, served over Azure's REST API.

`FileService` is the interface. A share is a directory, `root/<account>/<share>`, which replicas mount and
access directly. The file system is authoritative for names, sizes and modification times; all other
properties are stored beside the share (see `sidecar`). `az storage` and the SDK work with it, path-style:
`https://localhost:PORT/<account>`.

Not emulated, and rejected with 501 `NotImplementedByLocalCloud`:

* share snapshots, soft delete, stored access policies, File service properties, user delegation keys and
  their SAS;
* NFS shares: owner, group, mode, symbolic and hard links; provisioned shares and bursting; SMB directory
  leases;
* file permissions (SDDL): every entry inherits one, whose key is always the same;
* CRC64 checksums and structured bodies; the property semantics `Restore`;
* copies from another account or from blobs, and OAuth for a copy's source.

Also rejected: OAuth tokens (403: no identity has a data role), SharedKeyLite (400), condition headers
(400), `x-ms-` headers and parameters that an operation does not support (400), CORS preflights (401).

Different from Azure, but not rejected:

* A quota is stored and reported but not enforced; there is no throttling.
* There is no SMB: no open handles, no SharingViolation by a replica that has a file open.
* A directory is renamed even if files in it are leased.
* A copy is complete when the response is sent; a share is deleted immediately (never ShareBeingDeleted).
* A symbolic link that a replica made is listed as a small file, can be renamed and deleted, and is never
  followed; reading or writing it is rejected with ResourceTypeMismatch.
* A name that a replica made and Azure forbids is listed but cannot be accessed.
* A name is limited to the file system's 255 bytes; Azure's limit is 255 UTF-16 units.
* When a replica changes a file, its stored properties are dropped; Azure keeps them. A change that keeps the
  size and follows a change by the service within one tick of the kernel's clock is not detected.
"""

from localcloud.files.service import AccountKeys, FileService

__all__ = ["AccountKeys", "FileService"]
