"""Matrix products by oneDNN: the same numbers as torch's own, through autograd and torch.compile, wherever they are taken."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from planner.ladder import shape_for
from planner.recipe import Recipe
from planner.train.loss import compiled_loss, mean_loss
from planner.train.matmul import LEAST_MULTIPLICATIONS, LONG, NARROW, matmul, placed, product, speed_up
from planner.train.model import build_model

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever processor runs the tests."""
    monkeypatch.setattr("planner.train.matmul.MKL_IS_SLOW", True)


def matrices(rows: int, inner: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(rows + inner + columns)
    return torch.randn(rows, inner, generator=random), torch.randn(inner, columns, generator=random)


@pytest.mark.parametrize(("rows", "inner", "columns"), [(1024, 96, 96), (160, 1024, 448), (1000, 33, 517), (4096, 160, 65)])
@pytest.mark.parametrize("turned", ["neither", "left", "right", "both"])
def test_a_product_and_its_slopes_are_torchs_own(rows: int, inner: int, columns: int, turned: str) -> None:
    assert rows * inner * columns >= LEAST_MULTIPLICATIONS
    left, right = matrices(rows, inner, columns)
    left = left.T.contiguous().T if turned in ("left", "both") else left
    right = right.T.contiguous().T if turned in ("right", "both") else right
    mine, theirs = ([item.clone(memory_format=torch.preserve_format).requires_grad_() for item in (left, right)] for _ in range(2))
    weights = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    found, wanted = matmul(*mine), theirs[0] @ theirs[1]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    for result in (found, wanted):
        (result * weights).sum().backward()
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("gaps", ["columns", "rows", "every other column", "one row", "one column", "one number"])
def test_matrices_with_gaps_are_laid_out_anew(gaps: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """OneDNN multiplies by those a thousand times as slowly; a slope is one after a sum, a slice or a concatenation."""
    there, seen = torch.ops.mkldnn._linear_pointwise, []

    def told(left: torch.Tensor, right: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(right.is_contiguous() or right.T.is_contiguous())
        result: torch.Tensor = there(left, right, *rest)
        return result

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", told)
    rows, columns = 1024, 96
    large = torch.randn(2 * rows, 2 * columns, generator=torch.Generator().manual_seed(3))
    slope = {
        "columns": large[:rows, :columns], "rows": large[:, :columns][::2], "every other column": large[:rows, ::2],
        "one row": large[:1, :columns].expand(rows, columns), "one column": large[:rows, :1].expand(rows, columns),
        "one number": large[0, 0].expand(rows, columns),
    }[gaps]  # fmt: skip
    mine, theirs = ([item.requires_grad_() for item in matrices(rows, 160, columns)] for _ in range(2))
    matmul(*mine).backward(slope)
    (theirs[0] @ theirs[1]).backward(slope)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(matmul(slope, slope.T), slope @ slope.T, rtol=1e-4, atol=1e-3)
    assert len(seen) == 4 and all(seen)


def test_products_that_would_not_gain_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, ...]] = []

    def told(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        taken.append((*left.shape, right.shape[1]))
        return left @ right

    monkeypatch.setattr("planner.train.matmul.product", told)
    large, narrow, small = (1024, 96, 96), (NARROW - 1, 4 * LONG, 1024), (64, 32, 32)
    for shape in (large, narrow, small):
        matmul(*matrices(*shape))
    left, right = matrices(*large)
    matmul(left.double(), right.double())
    matmul(left.bfloat16(), right.bfloat16())
    monkeypatch.setattr("planner.train.matmul.MKL_IS_SLOW", False)
    matmul(left, right)
    assert taken == [large]


@pytest.mark.parametrize("shape", [(0, 96, 96), (5, 0, 7), (5, 7, 0), (0, 0, 0)])
def test_nothing_multiplies_to_what_torch_makes_of_it(shape: tuple[int, int, int]) -> None:
    left, right = (item.requires_grad_() for item in matrices(*shape))
    matmul(left, right).sum().backward()
    assert left.grad is not None and left.grad.shape == left.shape and right.grad is not None and not right.grad.any()


def test_a_lone_row_has_slopes_on_both_sides() -> None:
    left, right = torch.ones(LONG - 1, requires_grad=True), torch.ones(LONG - 1, int(LEAST_MULTIPLICATIONS / (LONG - 1)) + 1, requires_grad=True)
    matmul(left, right).sum().backward()
    assert left.grad is not None and (left.grad == right.shape[1]).all() and right.grad is not None and (right.grad == 1).all()


def test_the_operator_keeps_what_torch_asks_of_one() -> None:
    torch.library.opcheck(product, tuple(item.requires_grad_() for item in matrices(5, 6, 7)))


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_model_that_is_sped_up_has_the_same_loss_and_slopes(family: str, frozen: bool) -> None:
    shape = shape_for(4e5, family=family, vocab=512)
    plain = build_model(shape, Recipe(seq_len=64), 0)
    if frozen:  # as under adapters
        for name, parameter in plain.named_parameters():
            parameter.requires_grad_("norm" in name)
    fast = copy.deepcopy(plain)
    speed_up(fast)
    assert fast.state_dict().keys() == plain.state_dict().keys() and any(type(item) is not torch.nn.Linear for item in fast.modules())
    assert all(isinstance(mine, type(theirs)) for mine, theirs in zip(fast.modules(), plain.modules(), strict=True))
    tokens = torch.randint(0, 512, (16, 64), generator=torch.Generator().manual_seed(1))
    losses = [mean_loss(model, tokens, tokens, True) for model in (plain, fast)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=1e-6)
    for loss in losses:
        loss.backward()
    for one, other in zip(fast.parameters(), plain.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)


def test_a_layer_with_a_bias_adds_it() -> None:
    layer = torch.nn.Linear(128, 128)
    inputs = torch.randn(2, 512, 128, generator=torch.Generator().manual_seed(2))
    wanted = layer(inputs)
    speed_up(layer)
    torch.testing.assert_close(layer(inputs), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_compiled_the_loss_and_slopes_stay_the_same() -> None:
    """Traced whole, without what computes in between; the compiler's own backend is tried where there is a C++ compiler (test_head)."""
    shape = shape_for(4e5, family="qwen3", vocab=512)
    plain = build_model(shape, Recipe(seq_len=64), 0)
    fast = copy.deepcopy(plain)
    speed_up(fast)
    tokens = torch.randint(0, 512, (16, 64), generator=torch.Generator().manual_seed(1))
    mean_loss(plain, tokens, tokens, True).backward()
    compiled_loss("aot_eager")(fast, tokens, tokens, True).backward()
    for one, other in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)


def test_only_what_is_placed_on_a_cpu_is_sped_up() -> None:
    there = placed(torch.nn.Linear(4, 4), "meta")
    here = placed(torch.nn.Linear(4, 4), torch.device("cpu"))
    assert type(there) is torch.nn.Linear and there.weight.is_meta and type(here) is not torch.nn.Linear
