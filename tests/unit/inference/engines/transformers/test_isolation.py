"""One request's numbers do not reach the others, on the real manager with a random model."""

from __future__ import annotations

import asyncio
import copy
import itertools
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.engines.protocol import GenerationRequest, Sampling, Stopping
from inference.engines.transformers import sampling as sampler
from inference.engines.transformers.constraint import Constraint
from inference.engines.transformers.draws import Draw, choose_tokens
from inference.engines.transformers.engine import TransformersEngine, optimize_for_cpu
from inference.engines.transformers.isolation import CacheGuard
from inference.engines.transformers.loading import load_models
from inference.engines.transformers.rows import Row
from inference.errors import EngineError, RequestRefusedError, ScoresError
from inference.models.hardware import CacheSize
from inference.models.weights import find_weights
from inference.settings import Settings
from tests.doubles.tiny import BASE, byte_tokenizer, save_adapter, save_base

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


pytestmark = [
    pytest.mark.model,
    pytest.mark.usefixtures("one_thread"),
    # PEFT looks at a property of the model that transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # PEFT looks for the base's configuration by a path that holds on the share only.
    pytest.mark.filterwarnings("ignore:Could not find a config file in model-cache:UserWarning"),
]

TUNED = "mine"
POISON = 200
"""A token whose embedding a test replaces."""

PROMPT = (5, 6, 7, 8)
TOKENS = 6
JSON_GRAMMAR = 'start: %json {"type": "array", "items": {"enum": ["one", "two"]}, "minItems": 8}'
NEIGHBOURS = (Sampling(0.0), Sampling(1.0, seed=3), Sampling(0.8, 0.9, 20, 0.01, seed=4))
EXTREMES = (
    0.0, -0.0, 5e-324, 1e-320, 1e-50, 1e-45, 1e-38, 1.2e-38, 1e-30, 1e-7, 0.01, 1.0, 2.0, 100.0,
    1e30, 3.4e38, 3.5e38, 1.7e308, -1.0, -100.0, -1e38, -1.7e308, math.inf, -math.inf, math.nan,
)  # fmt: skip
NUMBERS = st.sampled_from(EXTREMES) | st.floats()
INTEGERS = st.sampled_from((0, 1, -1, 2**31, 2**63 - 1, 2**63, -(2**63), 2**70)) | st.integers()
SAMPLINGS = st.builds(
    Sampling,
    temperature=NUMBERS,
    top_p=st.just(1.0) | NUMBERS,
    top_k=st.just(0) | INTEGERS,
    min_p=st.just(0.0) | NUMBERS,
    presence_penalty=st.just(0.0) | NUMBERS,
    frequency_penalty=st.just(0.0) | NUMBERS,
    repetition_penalty=st.just(1.0) | NUMBERS,
    logit_bias=st.just(()) | st.lists(st.tuples(st.integers(-2, 300), NUMBERS), max_size=3).map(tuple),
    seed=st.none() | INTEGERS,
)

IDS = itertools.count()


class Bench:
    """An engine on a loop of its own, which lives as long as the module's tests."""

    def __init__(self, engine: TransformersEngine, runner: asyncio.Runner) -> None:
        self.engine = engine
        self._runner = runner

    def ask(self, *cases: tuple[Sampling, dict[str, Any]]) -> list[Any]:
        """Return the tokens or the error of each request; all are asked at once."""
        return self._runner.run(self._ask(cases))

    async def _ask(self, cases: Sequence[tuple[Sampling, dict[str, Any]]]) -> list[Any]:
        async with asyncio.timeout(60):
            return await asyncio.gather(*(self._read(*case) for case in cases), return_exceptions=True)

    async def _read(self, sampling: Sampling, fields: dict[str, Any]) -> tuple[int, ...]:
        defaults: dict[str, Any] = {"model": BASE, "prompt_token_ids": PROMPT, "max_new_tokens": TOKENS}
        request = GenerationRequest(request_id=f"r{next(IDS)}", sampling=sampling, **(defaults | fields))
        stream = self.engine.submit(request)
        return tuple([token async for increment in stream for token in increment.token_ids])


def poison(network: Any, value: float) -> None:
    """Give a token's embedding a value that no other token's has."""

    def replace_rows(_module: object, inputs: tuple[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        return torch.where((inputs[0] == POISON).unsqueeze(-1), value, rows)

    network.get_input_embeddings().register_forward_hook(replace_rows)


@pytest.fixture(scope="module", params=[True, False], ids=["own attention", "masked attention"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """An engine with a base and an unmerged adapter, whose network gives NaN for one token."""
    mount = tmp_path_factory.mktemp("mount")
    save_base(mount, byte_tokenizer("<end>"), heads=4)
    save_adapter(mount, TUNED)
    options = Settings(dtype="float32", device="cpu", auth=False, merge_adapters="off")
    weights = find_weights(mount, None, "models/mine")
    models = load_models(weights, options, lambda _phase, _percent: None).models
    network = copy.deepcopy(models[0].network)
    poison(network, math.nan)
    copies = [replace(model, network=network) for model in models]
    optimize_for_cpu([network], allow_own_attention=request.param)
    with asyncio.Runner() as runner:
        engine = TransformersEngine(copies, CacheSize(128, 64), 16, allow_own_attention=request.param)
        assert (engine._batchers[0]._manager.guard is None) is request.param
        yield Bench(engine, runner)
        runner.run(engine.close())


@pytest.fixture(scope="module")
def expected(bench: Bench) -> list[tuple[int, ...]]:
    """The neighbours' answers without anyone beside them."""
    return [bench.ask((sampling, {}))[0] for sampling in NEIGHBOURS]


def assert_only_it_fails(bench: Bench, expected: list[Any], *cases: tuple[Sampling, dict[str, Any]]) -> None:
    answers = bench.ask(*((sampling, {}) for sampling in NEIGHBOURS), *cases)
    assert answers[: len(NEIGHBOURS)] == expected
    assert all(isinstance(each, EngineError) or len(each) <= TOKENS for each in answers), answers
    assert bench.engine.is_alive


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("seed", [None, 1])
def test_a_temperature_of_any_size_ends_no_other_request(
    bench: Bench, expected: list[Any], extreme: float, seed: int | None
) -> None:
    assert_only_it_fails(
        bench, expected, (Sampling(extreme, seed=seed), {}), (Sampling(extreme, 0.9, 5, seed=seed), {})
    )


@given(st.lists(SAMPLINGS, min_size=1, max_size=12))
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_numbers_of_any_size_end_no_other_request(
    bench: Bench, expected: list[Any], samplings: list[Sampling]
) -> None:
    models = itertools.cycle((BASE, TUNED))
    assert_only_it_fails(bench, expected, *((each, {"model": next(models)}) for each in samplings))


@pytest.mark.parametrize(
    ("tiny", "ordinary"),
    [
        (Sampling(1e-38), Sampling(0.0)),
        (Sampling(1e-320), Sampling(0.0)),
        (Sampling(1e-38, 0.9, 7, 0.1), Sampling(0.0)),
        (Sampling(1e-38, seed=5), Sampling(0.0)),
        (Sampling(1.0, top_p=1e-320), Sampling(0.0)),
        (Sampling(1.0, min_p=1e-320, seed=5), Sampling(1.0, seed=5)),
        (Sampling(1.0, top_k=2**31 - 1, seed=5), Sampling(1.0, seed=5)),
    ],
)
def test_a_parameter_too_small_for_float32_has_its_limit_s_effect(
    bench: Bench, tiny: Sampling, ordinary: Sampling
) -> None:
    found, wanted = bench.ask((tiny, {}), (ordinary, {}))
    assert found == wanted
    assert len(found) > 1


WAYS: list[tuple[Sampling, dict[str, Any]]] = [
    (Sampling(0.0), {}),
    (Sampling(1.0), {}),
    (Sampling(1.0, 0.9, seed=3), {"model": TUNED}),
    (Sampling(0.0, frequency_penalty=1.0), {"top_logprobs": 3}),
    (Sampling(0.0), {"grammar": JSON_GRAMMAR}),
    (Sampling(0.0), {"prompt_logprobs": 1}),
]


@pytest.mark.parametrize("place", ["first", "last", "beyond the first step"])
def test_a_request_whose_scores_are_nan_fails_alone(bench: Bench, expected: list[Any], place: str) -> None:
    prompts = {
        "first": (POISON, *PROMPT),
        "last": (*PROMPT, POISON),
        # More tokens than a step takes.
        "beyond the first step": (POISON, *(9 + index % 90 for index in range(100))),
    }
    poisoned = [(sampling, fields | {"prompt_token_ids": prompts[place]}) for sampling, fields in WAYS]
    answers = bench.ask(*((sampling, {}) for sampling in NEIGHBOURS), *poisoned)
    assert answers[: len(NEIGHBOURS)] == expected
    assert all(isinstance(each, ScoresError) for each in answers[len(NEIGHBOURS) :]), answers
    # Neither the cache nor the scheduler keeps anything of it.
    assert bench.ask(*((sampling, {}) for sampling in NEIGHBOURS)) == expected


def test_a_token_without_an_embedding_is_refused(bench: Bench) -> None:
    for token in (257, 10**6, -1):
        (error,) = bench.ask((Sampling(0.0), {"prompt_token_ids": (5, token)}))
        assert isinstance(error, RequestRefusedError)
        assert str(error) == (
            f"the prompt has the token {token}, and the model org/tiny has embeddings for the tokens 0 to 256"
        )


def test_a_defect_in_one_row_ends_its_request_only(
    bench: Bench, expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(_self: Constraint, _width: int) -> Any:
        raise TypeError("a defect")

    monkeypatch.setattr(Constraint, "allowed", break_down)
    broken = (Sampling(0.0), {"grammar": JSON_GRAMMAR})
    answers = bench.ask(*((sampling, {}) for sampling in NEIGHBOURS), broken)
    assert answers[: len(NEIGHBOURS)] == expected
    assert str(answers[-1]) == "the engine failed: a defect"


def test_a_batch_that_cannot_be_drawn_together_is_drawn_row_by_row(
    bench: Bench, expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose_unless_42(scores: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
        if any(draw.sampling.seed == 42 for draw in draws):
            raise IndexError("a defect")
        return choose_tokens(scores, draws)

    monkeypatch.setattr(sampler, "choose_tokens", choose_unless_42)
    answers = bench.ask(*((sampling, {}) for sampling in NEIGHBOURS), (Sampling(1.0, seed=42), {}))
    assert answers[: len(NEIGHBOURS)] == expected
    assert str(answers[-1]) == "the engine failed: a defect"


def test_a_request_that_leaves_no_token_is_refused(bench: Bench) -> None:
    ends = tuple(range(257))
    (error,) = bench.ask((Sampling(0.0), {"stopping": Stopping(min_tokens=2, stop_token_ids=ends)}))
    assert isinstance(error, RequestRefusedError)
    assert "leave no token to choose" in str(error)


def test_scores_stay_finite_whatever_is_added_to_them() -> None:
    huge = Sampling(logit_bias=((1, 1e308), (2, -1e308)), repetition_penalty=5e-324)
    row = Row(GenerationRequest("r", BASE, (3, 4), 5, huge))
    scores = torch.tensor([0.0, 1.0, 2.0, 3.0, -4.0])
    row.adjust(scores)
    assert row.error is None
    assert scores.isfinite().all()
    assert scores.argmax().item() in {1, 3}


def test_the_guard_names_the_request_whose_keys_or_values_are_not_finite() -> None:
    cache: Any = SimpleNamespace(update=lambda keys, values, _layer, _options: (keys, values))
    guard = CacheGuard()
    guard.watch(cache)
    assert guard.are_finite([2, 1]) == [True, True]
    fine = torch.ones(1, 2, 6, 4, dtype=torch.float16)
    broken = fine.clone()
    broken[0, 1, 2, 3], broken[0, 0, 5, 0] = math.inf, -math.inf
    for keys, values in ((fine, fine), (fine * 60000, broken), (broken, fine)):
        written: Any = cache.update(keys, values, 0, {})
        assert all(states.isfinite().all() for states in written)
    assert guard.are_finite([2, 1, 2, 1]) == [True, False, True, False]
    # The next step begins anew.
    cache.update(fine, fine, 0, {})
    assert guard.are_finite([6]) == [True]
