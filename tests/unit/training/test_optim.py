"""The optimizer: its schedule in closed form, its groups, and updates that are refused."""

import io
import math

import pytest
import torch
from torch import nn

from eyas.algorithms.base import Loss
from eyas.algorithms.supervised import Supervised
from eyas.batch import SampleStep, TrainingSample
from eyas.config import OptimConfig
from eyas.errors import TrainingDiverged
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer, learning_rate_factor
from helpers import nano_policy, prompt


@pytest.mark.parametrize(
    ("step", "schedule", "factor"),
    [
        (0, "constant", 0.25), (3, "constant", 1.0), (4, "constant", 1.0), (11, "constant", 1.0),
        (4, "linear", 1.0), (8, "linear", 0.1 + 0.9 * 0.5), (12, "linear", 0.1), (99, "linear", 0.1),
        (4, "cosine", 1.0), (8, "cosine", 0.1 + 0.9 * 0.5), (12, "cosine", 0.1),
        (6, "cosine", 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))),
    ],
)  # fmt: skip
def test_schedule(step, schedule, factor):
    """Twelve steps, four of them warm-up, down to a tenth."""
    assert learning_rate_factor(step, 12, 4, schedule, 0.1) == pytest.approx(factor)


def test_a_stage_that_is_all_warm_up_does_not_divide_by_zero():
    assert learning_rate_factor(4, 4, 4, "linear", 0.0) == 1.0


def tiny(**options):
    """A weight of ones with a bias, a value head of one weight, and their optimizer."""
    model, head = nn.Linear(2, 1), nn.Linear(1, 1, bias=False)
    for p in (*model.parameters(), *head.parameters()):
        nn.init.ones_(p)
    return model, head, Optimizer(model, head, OptimConfig(**({"lr": 0.1} | options)), 10)


def give_gradients(optimizer, value):
    for p in optimizer.parameters:
        p.grad = torch.full_like(p, value)


def test_first_adam_step_is_the_learning_rate_and_the_value_head_has_its_own():
    model, head, optimizer = tiny(lr=0.1, lr_value_head=0.01)
    give_gradients(optimizer, 3.0)
    optimizer.step()
    assert model.weight.tolist() == [pytest.approx([0.9, 0.9])]
    assert head.weight.item() == pytest.approx(0.99)


def test_the_value_head_follows_the_schedule_too():
    _, head, optimizer = tiny(lr=0.1, lr_value_head=0.01, warmup_steps=2)
    give_gradients(optimizer, 3.0)
    optimizer.step()
    assert head.weight.item() == pytest.approx(0.995)


def test_without_its_own_the_value_head_takes_the_model_s_learning_rate():
    _, head, optimizer = tiny(lr=0.1)
    give_gradients(optimizer, 3.0)
    optimizer.step()
    assert head.weight.item() == pytest.approx(0.9)


def test_weight_decay_spares_vectors():
    model, _, optimizer = tiny(lr=0.1, weight_decay=0.5)
    give_gradients(optimizer, 0.0)
    optimizer.step()
    assert model.weight.tolist() == [pytest.approx([0.95, 0.95])]
    assert model.bias.item() == 1


def test_clip_scales_to_the_norm_and_returns_the_one_before():
    _, _, optimizer = tiny(max_grad_norm=1.0)
    give_gradients(optimizer, 3.0)  # four parameters: norm 6
    assert optimizer.clip() == pytest.approx(6.0)
    assert math.sqrt(sum(float((p.grad**2).sum()) for p in optimizer.parameters)) == pytest.approx(1.0, abs=1e-5)
    give_gradients(optimizer, 0.1)
    optimizer.clip()
    assert optimizer.parameters[0].grad[0, 0] == pytest.approx(0.1)


def test_betas_are_used():
    weights = []
    for betas in ((0.9, 0.95), (0.0, 0.95), (0.9, 0.5)):
        model, _, optimizer = tiny(betas=betas)
        for gradient in (1.0, -0.5):
            give_gradients(optimizer, gradient)
            optimizer.step()
        weights.append(round(model.bias.item(), 5))
    assert len(set(weights)) == 3


def test_a_restored_optimizer_goes_on_alike():
    runs = []
    for is_interrupted in (False, True):
        model, head, optimizer = tiny(schedule="linear", warmup_steps=2)
        for i in range(6):
            if is_interrupted and i == 3:
                state, steps = optimizer.state_dict(), optimizer.steps
                optimizer = Optimizer(model, head, optimizer.config, 10)
                optimizer.load_state_dict(state)
                assert optimizer.steps == steps == 3
            give_gradients(optimizer, 1.0 + i)
            optimizer.step()
        runs.append([p.tolist() for p in optimizer.parameters])
    assert runs[0] == runs[1]


def test_a_frozen_parameter_is_not_in_it():
    model, head = nn.Linear(2, 1), nn.Linear(1, 1, bias=False)
    model.weight.requires_grad_(False)
    optimizer = Optimizer(model, head, OptimConfig(weight_decay=0.5, lr=0.1), 10)
    assert {id(p) for p in optimizer.parameters} == {id(model.bias), id(head.weight)}
    before = model.weight.clone()
    give_gradients(optimizer, 1.0)
    optimizer.step()
    assert torch.equal(model.weight, before)


def test_the_critic_learns_alone_while_it_warms_up():
    """Its gradient is clipped as if it were the only one, and the model's moments stay untouched."""
    model, head = nn.Linear(2, 1), nn.Linear(1, 1, bias=False)
    for p in (*model.parameters(), *head.parameters()):
        nn.init.ones_(p)
    optimizer = Optimizer(model, head, OptimConfig(lr=0.1, weight_decay=0.5), 10, critic_warmup=2)
    for _ in range(2):
        give_gradients(optimizer, 3.0)
        assert optimizer.clip() == pytest.approx(3.0)
        optimizer.step()
    assert model.weight.tolist() == [[1, 1]]
    assert head.weight.item() < 0.9
    assert set(optimizer.adamw.state) == {head.weight}
    give_gradients(optimizer, 3.0)
    assert optimizer.clip() == pytest.approx(6.0)
    optimizer.step()
    assert model.weight[0, 0].item() < 1


def test_moments_in_8_bits_learn_alike_and_resume_bit_for_bit():
    def descend(interrupted_at=None, **options):
        torch.manual_seed(0)
        model, head = nn.Linear(64, 128), nn.Linear(128, 1)
        optimizer = Optimizer(model, head, OptimConfig(lr=0.02, **options), 10)
        inputs, targets = torch.randn(32, 64), torch.randn(32, 1)
        losses = []
        for i in range(30):
            if i == interrupted_at:
                file = io.BytesIO()
                torch.save(optimizer.state_dict(), file)
                file.seek(0)
                optimizer = Optimizer(model, head, optimizer.config, 10)
                optimizer.load_state_dict(torch.load(file, weights_only=True))
            loss = (head(model(inputs).tanh()) - targets).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.clip()
            optimizer.step()
            losses.append(loss.item())
        nbytes = sum(
            v.nbytes for s in optimizer.adamw.state.values() for v in s.values() if isinstance(v, torch.Tensor)
        )
        return losses, nbytes

    (plain, much), (small, little) = descend(), descend(optimizer="adamw_8bit")
    assert small != plain
    assert small[-1] == pytest.approx(plain[-1], rel=0.3) and small[-1] < 0.2 * small[0]
    assert little < 0.5 * much
    assert descend(interrupted_at=12, optimizer="adamw_8bit")[0] == small


# ----------------------------------------------------------------------------------------------- refused updates


class Poisoned(Supervised):
    """Supervised, but some updates are not finite: in the loss, or only in the gradient."""

    def __init__(self, bad):
        super().__init__()
        self.bad, self.calls = bad, 0

    def loss(self, batch, output, denominators):
        loss = super().loss(batch, output, denominators)
        kind = self.bad[self.calls % len(self.bad)]
        self.calls += 1
        if kind == "loss":
            return Loss(loss.total * float("nan"), {"train/loss": loss.total.detach() * float("nan")})
        if kind == "gradient":  # the square root of 0 is finite, its slope is not
            return Loss(loss.total + torch.sqrt((loss.total - loss.total.detach()).abs()), loss.metrics)
        return loss


def sft_learner(bad, limit=3):
    policy = nano_policy()
    optimizer = Optimizer(policy.model, policy.value_head, OptimConfig(lr=1e-3), 100)
    ids = policy.model.encode(prompt("Go."), policy.images).ids
    sample = TrainingSample(
        torch.cat([torch.tensor(ids), torch.tensor([300, 301])]).numpy(),
        (),
        (SampleStep(len(ids), len(ids), len(ids) + 2),),
    )
    return Learner(policy, Poisoned(bad), optimizer, max_nonfinite_updates=limit), [sample]


def everything(learner):
    moments = [v.clone() for s in learner.optimizer.adamw.state.values() for v in s.values()]
    return [p.detach().clone() for p in learner.policy.model.parameters()] + moments


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_nan_an_update_that_is_not_finite_changes_nothing_and_is_counted(kind):
    learner, samples = sft_learner(["fine", kind, "fine"])
    assert learner.update(samples)["train/nonfinite_updates_count"] == 0
    before, version = everything(learner), learner.policy.version
    numbers = learner.update(samples)
    assert numbers["train/nonfinite_updates_count"] == 1
    assert learner.policy.version == version == 1
    assert all(torch.equal(a, b) for a, b in zip(before, everything(learner), strict=True))
    assert learner.optimizer.steps == 2  # the schedule goes on
    learner.update(samples)
    assert learner.policy.version == 2
    assert not all(torch.equal(a, b) for a, b in zip(before, everything(learner), strict=True))
    assert all(torch.isfinite(t).all() for t in everything(learner))


def test_nan_applied_without_the_check_would_spoil_the_weights():
    """The wrong variant: the optimizer steps whatever the gradient is."""
    learner, samples = sft_learner(["loss"])
    learner._refuse = learner.optimizer.step
    learner.update(samples)
    assert not all(torch.isfinite(t).all() for t in everything(learner))


def test_nan_the_run_stops_with_advice_after_so_many_in_a_row():
    learner, samples = sft_learner(["loss"], limit=3)
    learner.update(samples)
    learner.update(samples)
    with pytest.raises(TrainingDiverged, match=r"3 updates in a row .* lower optim.lr"):
        learner.update(samples)


def test_nan_only_those_in_a_row_count():
    learner, samples = sft_learner(["loss", "loss", "fine"], limit=3)
    for _ in range(9):
        learner.update(samples)
    assert learner.policy.version == 3


def test_nan_the_count_survives_a_restart():
    learner, samples = sft_learner(["loss"], limit=3)
    learner.update(samples)
    learner.update(samples)
    resumed, _ = sft_learner(["loss"], limit=3)
    resumed.load_state_dict(learner.state_dict())
    with pytest.raises(TrainingDiverged):
        resumed.update(samples)
