"""The skeleton of every training: when it saves and tells, and that it continues where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from powercut import Memory, Stopped
from torch import Tensor, nn

from mibench.api import MibenchError, TrainingContext
from mibench.api.training import LatestTerms, TrainingState, run_steps, stored_weights
from mibench.rng import stream


def train(memory: Memory, *, steps: int = 6, width: int = 2, **context: Any) -> TrainingState:
    network = nn.Linear(width, 1, bias=False)
    nn.init.ones_(network.weight)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.1)
    state = TrainingState({"network": network}, {"optimiser": optimiser})
    where = TrainingContext(device=torch.device("cpu"), checkpoint=memory, **context)

    def step(index: int) -> Mapping[str, Tensor]:
        loss = network(torch.rand(4, width, generator=stream(0, index))).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return {"loss": loss.detach()}

    monitor = LatestTerms(where, state, steps=steps, batch_size=4, log_steps=2)
    run_steps(where, state, steps=steps, step=step, monitor=monitor, checkpoint_seconds=0.0)
    return state


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_a_stopped_training_continues_bit_for_bit(stop_after: int) -> None:
    whole, memory = train(Memory()), Memory(stop_after)
    with pytest.raises(Stopped):
        train(memory)
    memory.stop_after = None
    resumed = train(memory)
    assert memory.saves == 6  # no step was repeated
    assert resumed.step == whole.step == 6
    assert torch.equal(resumed.networks["network"].weight, whole.networks["network"].weight)
    assert resumed.values == whole.values


def test_run_steps_logs_at_its_steps_and_ends_the_progress_bar() -> None:
    records: list[dict[str, Any]] = []
    bar: list[tuple[int, int, str]] = []
    train(Memory(), steps=5, log=lambda **record: records.append(record), progress=lambda *p: bar.append(p))
    assert [record["images"] for record in records] == [8, 16, 20]
    assert {"loss", "images_per_second"} < records[0].keys()
    assert bar[-1][:2] == (5, 5)


def test_a_checkpoint_that_does_not_fit_is_refused_with_its_cure() -> None:
    memory = Memory()
    train(memory)
    for content in (memory.load(), {"epoch": 3}):
        memory.save(content)
        with pytest.raises(MibenchError, match="delete it to start over") as caught:
            train(memory, width=3)
        assert "\n" not in str(caught.value)


def test_weights_too_large_for_their_storage_are_refused() -> None:
    network = nn.Linear(1, 1)
    nn.init.constant_(network.weight, 1e6)
    assert stored_weights(network, "float32", "G.")["G.weight"].item() == 1e6
    with pytest.raises(MibenchError, match=r"G\.weight is not finite in float16"):
        stored_weights(network, "float16", "G.")
