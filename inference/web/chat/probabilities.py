"""The probabilities of an answer's tokens, computed when the user asks for them.

The prompt and the answer are read by the model once more, as one prompt: that is a single step, and needs
nothing from the time at which the answer was generated.
"""

from __future__ import annotations

import math
import uuid
from typing import TYPE_CHECKING, Any, Final

from inference.engines.protocol import Sampling
from inference.errors import InvalidRequestError
from inference.service.requests import TextRequest, TokenPrompt
from inference.web.chat.conversation import prompt_for

if TYPE_CHECKING:
    from inference.service.logprobs import Logprob, LogprobEntry
    from inference.service.service import Service
    from inference.web.chat.conversation import Answered

TOP: Final = 5
"""How many of the likeliest tokens are listed in each place."""


async def find_probabilities(
    service: Service, answered: Answered, client: str = "chat"
) -> list[dict[str, Any]]:
    """Return each token of an answer with its probability, and the likeliest ones in its place.

    Raises:
        ApiError: If the model cannot read the answer again, with the reason for the user.
    """
    if not answered.token_ids:
        raise InvalidRequestError("This answer has no tokens.")
    prompt = prompt_for(answered.model, answered.turns, answered.settings.system_prompt)
    request_id = "chat-" + uuid.uuid4().hex
    sampling = Sampling(0.0)
    before = await service.tokenize(TextRequest(request_id, answered.model, prompt, 0, sampling))
    request = TextRequest(
        request_id=request_id,
        model=answered.model,
        prompt=TokenPrompt((*before, *answered.token_ids)),
        max_new_tokens=0,
        sampling=sampling,
        top_logprobs=TOP,
        echo=True,
        client=client,
    )
    entries: list[LogprobEntry] = []
    async with await service.begin(request) as reply:
        async for delta in reply:
            entries += delta.logprobs
    return [_to_json(entry) for entry in entries[len(before) : len(before) + len(answered.token_ids)]]


def _to_json(entry: LogprobEntry) -> dict[str, Any]:
    return {**_token(entry.chosen), "top": [_token(each) for each in entry.top]}


def _token(logprob: Logprob) -> dict[str, Any]:
    token = logprob.token
    return {
        "text": token.text,
        "is_special": token.data is None,
        "probability": 0.0 if logprob.logprob is None else round(math.exp(logprob.logprob), 6),
    }
