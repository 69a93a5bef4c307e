"""GPU time and money to FLOPs."""

import pytest

from planner.allocate.budget import PEAK_FLOPS, Budget, gpu_flops, peak_flops
from planner.errors import InputError


def test_what_each_limit_allows() -> None:
    assert Budget().hours_of_gpu() == {}
    assert Budget(gpu_hours=100.0).hours_of_gpu() == {"--gpu-hours": 100}
    assert Budget(gpu_days=2.0).hours_of_gpu() == {"--gpu-days": 48}
    every = Budget(gpu_hours=100.0, usd=500.0, usd_per_gpu_hour=2.5, gpus=8, hours=24.0)
    assert every.hours_of_gpu() == {"--gpu-hours": 100, "--usd": 200, "--hours": 192}


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(usd=100.0), "--usd has no effect without --usd-per-gpu-hour"),
        (Budget(hours=3.0), "--hours has no effect without --gpus"),
        (Budget(gpu_hours=-1.0), "--gpu-hours -1 is not a positive number"),
        (Budget(gpu_hours=float("inf")), "--gpu-hours inf"),
    ],
)
def test_half_a_limit_is_refused(budget: Budget, message: str) -> None:
    with pytest.raises(InputError, match=message):
        budget.hours_of_gpu()


def test_a_gpu_does_its_peak_times_the_share() -> None:
    assert gpu_flops("a100", 0.5) == 156e12
    with pytest.raises(InputError, match="'TPU9' is not known"):
        gpu_flops("TPU9", 0.5)
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="--mfu"):
            gpu_flops("A100", share)
    assert all(1e13 < peak < 1e16 for peak in PEAK_FLOPS.values())


def test_a_peak_is_a_gpu_or_a_number() -> None:
    assert peak_flops("h100") == PEAK_FLOPS["H100"] == 989e12
    assert peak_flops("312e12") == 312e12
    with pytest.raises(InputError, match="'TPU9'"):
        peak_flops("TPU9")
