"""Download a base model from the Hugging Face hub.

Only safetensors, configuration and tokenizer files are downloaded, never pickles or code. Models in the hub's
own cache are not downloaded again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from infra.errors import RemoteError, UsageError
from infra.network import has_own_certificates, tls_context
from infra.wording import first_line

if TYPE_CHECKING:
    from infra.console import Console

_WANTED: Final = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
_UNWANTED: Final = ("*/*",)
"""Subfolders of a model's repository contain the same weights in formats that are not served."""


def download_base(base_id: str, console: Console) -> Path:
    """Return the local folder of a model on the hub, after downloading it if it is missing.

    Args:
        base_id: `<org>/<name>`.
        console: Shows the start of the download; the hub's client shows progress bars on stderr.

    Raises:
        UsageError: There is no such model, or it requires a token that this machine does not have.
        RemoteError: The hub cannot be reached.
    """
    # The import takes a second, and few pushes need it.
    from huggingface_hub import get_session, set_client_factory, snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError  # noqa: PLC0415

    console.info(f"downloading {base_id} from the Hugging Face hub")
    if has_own_certificates():
        client = type(get_session())
        # As the hub makes its own, with other certificates.
        set_client_factory(lambda: client(follow_redirects=True, timeout=None, verify=tls_context()))
    try:
        return Path(snapshot_download(base_id, allow_patterns=list(_WANTED), ignore_patterns=list(_UNWANTED)))
    except GatedRepoError as error:
        hint = f"accept its terms on https://huggingface.co/{base_id}, and set HF_TOKEN to your token"
        raise UsageError(f"the base model {base_id} requires acceptance of its terms", hint=hint) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        hint = "correct --base; for a private model set HF_TOKEN; or name a local folder with --base"
        raise UsageError(f"there is no model {base_id} on the Hugging Face hub", hint=hint) from error
    except Exception as error:  # the client lets errors of several HTTP libraries through
        hint = "check the network; or download the model elsewhere, and pass its folder with --base"
        reason = first_line(str(error)) or type(error).__name__
        raise RemoteError(f"cannot download {base_id} from the hub: {reason}", hint=hint) from error
