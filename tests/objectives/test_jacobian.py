"""Both estimators of the Jacobian penalty against the Jacobian itself, in float64."""

from dataclasses import replace

import pytest
import torch
from tiny_model import random_batch, random_model

from whale.models.dynamics import expected_codes
from whale.objectives.clip_noise import ClipNoise
from whale.objectives.dynamics_loss import DynamicsLossConfig, dynamics_loss
from whale.objectives.dynamics_objective import DynamicsObjective
from whale.objectives.jacobian import JacobianConfig, finite_difference, penalty, vjp
from whale.objectives.noise import NO_NOISE, rms

FRAME = 2


class Problem:
    """F of a random model at one frame of one clip, [S, C] -> [S, C], and its Jacobian."""

    def __init__(self, dtype=torch.float64):
        self.model = random_model().to(dtype)
        batch = random_batch(self.model, batch=1, frames=4)
        self.batch = {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()}
        self.codebook = self.model.tokenizer.quantizer.codebook_VC
        self.codes = self.model.codes(self.batch["tokens"])
        self.features = self.model.action_features(self.batch)
        self.z = self.model.prior(self.model.behavior.summary(self.codes), self.features).mean
        self.e = self.codes[:, FRAME]

    def predict(self, codes, row=None):
        clips = len(codes)
        several = {name: self.batch[name].expand(clips, *self.batch[name].shape[1:]) for name in
                   ("tokens", "control_period_sec", "embodiment")}  # fmt: skip
        features, z = (value.expand(clips, -1, -1) for value in (self.features, self.z))
        return self.model.predict(several["tokens"], features, z, several, codes=codes).logits_BTSV

    def f(self, e):
        codes = self.codes.repeat(len(e), 1, 1, 1)
        codes[:, FRAME] = e
        return expected_codes(self.predict(codes)[:, FRAME], self.codebook)

    @property
    def jacobian(self):
        """[S C, S C]."""
        size = self.e.numel()
        return torch.autograd.functional.jacobian(self.f, self.e).reshape(size, size)


@pytest.fixture(scope="module")
def problem():
    torch.manual_seed(0)
    return Problem()


def test_per_draw_against_the_jacobian(problem):
    jacobian = problem.jacobian
    u = torch.randn(1, 16, 12, dtype=torch.float64)
    expected = (jacobian @ u.flatten()).square().sum()
    step = torch.tensor(1e-6, dtype=torch.float64)
    found = finite_difference(problem.f, problem.e, problem.f(problem.e), u, step)
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(vjp(problem.f, problem.e, u)[0], (jacobian.T @ u.flatten()).square().sum())


def test_in_norm_by_summing_over_a_basis(problem):
    """Every direction is a clip of its own."""
    expected = problem.jacobian.square().sum()
    basis = torch.eye(192, dtype=torch.float64).view(192, 16, 12)
    e = problem.e.expand(192, -1, -1)
    torch.testing.assert_close(vjp(problem.f, e, basis).sum(), expected)
    step = torch.tensor(1e-6, dtype=torch.float64)
    found = finite_difference(problem.f, e, problem.f(e), basis, step).sum()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_a_linear_map_is_exact_at_any_step():
    matrix = torch.randn(6, 6, dtype=torch.float64)
    e, u = torch.randn(2, 3, 2, 3, dtype=torch.float64)

    def f(x):
        return (x.flatten(1) @ matrix.T).view_as(x)

    expected = (u.flatten(1) @ matrix.T).square().sum(1)
    for step in (1e-3, 1.0, 30.0):
        torch.testing.assert_close(finite_difference(f, e, f(e), u, torch.tensor(step)), expected)
    torch.testing.assert_close(vjp(f, e, u), (u.flatten(1) @ matrix).square().sum(1))


@pytest.mark.parametrize("estimator", ["finite_difference", "vjp"])
def test_gradient_against_finite_differences(estimator):
    """Along a random direction in the space of all weights of the dynamics; both passes count."""
    problem = Problem()
    u = torch.randn(1, 16, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = 0.1 * rms(problem.codebook)
    weights = list(problem.model.dynamics.parameters())
    along = [torch.randn_like(p) for p in weights]

    def value():
        if estimator == "vjp":
            return vjp(problem.f, problem.e, u).sum()
        return finite_difference(problem.f, problem.e, problem.f(problem.e), u, step).sum()

    value().backward()
    slope = sum((p.grad * d).sum() for p, d in zip(weights, along, strict=True) if p.grad is not None)

    def moved(by):
        with torch.no_grad():
            for p, d in zip(weights, along, strict=True):
                p += by * d
        there = value().detach()
        with torch.no_grad():
            for p, d in zip(weights, along, strict=True):
                p -= by * d
        return there

    torch.testing.assert_close(slope, (moved(1e-6) - moved(-1e-6)) / 2e-6, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("estimator", ["finite_difference", "vjp"])
def test_the_penalty_averages_to_the_norm_over_the_number_of_inputs(problem, estimator):
    """Over many draws of clip, frame and direction; 300 clips that are all the same."""
    count, config = 300, JacobianConfig(weight=1.0, estimator=estimator, sigma=1e-4, every=3)
    codes = problem.codes.expand(count, -1, -1, -1)
    num_next = torch.full((count,), 3)
    value = penalty(
        lambda given, rows: problem.predict(given), codes, problem.predict(problem.codes).expand(count, -1, -1, -1),
        num_next, problem.codebook, config, ClipNoise(0, 5, torch.arange(count)),
    )  # fmt: skip
    assert int((value > 0).sum()) == count // 3
    norms = []
    for frame in range(3):
        def f(e, frame=frame):
            codes = torch.stack([e if t == frame else problem.codes[:, t] for t in range(4)], 1)
            return expected_codes(problem.predict(codes)[:, frame], problem.codebook)

        norms.append(torch.autograd.functional.jacobian(f, problem.codes[:, frame]).square().sum() / 192)
    expected = torch.stack(norms).mean()
    assert abs(value.mean() - expected) < 4 * value[value > 0].std() / 10 / 3, (value.mean(), expected)


def test_a_part_without_a_chosen_clip_is_called_all_the_same(problem):
    calls = []

    def predict(given, rows):
        calls.append(len(given))
        return problem.predict(given)

    noise = ClipNoise(0, 5, torch.tensor([3]))
    every = next(n for n in range(2, 50) if not noise.one_in(n))
    config = JacobianConfig(weight=1.0, every=every)
    logits = problem.predict(problem.codes)
    value = penalty(predict, problem.codes, logits, torch.tensor([3]), problem.codebook, config, noise)
    assert calls == [1] and value.tolist() == [0.0]


def test_one_clip_in_each_group_is_chosen_wherever_it_is_asked():
    for step in range(20):
        whole = ClipNoise(1, step, torch.arange(40, 80)).one_in(4)
        assert [row // 4 for row in whole] == list(range(10))
        parts = [[40 + start + row for row in ClipNoise(1, step, torch.arange(40 + start, 45 + start)).one_in(4)]
                 for start in range(0, 40, 5)]  # fmt: skip
        assert [row for part in parts for row in part] == [40 + row for row in whole]
    seen = {ClipNoise(1, step, torch.arange(4)).one_in(4)[0] for step in range(60)}
    assert seen == {0, 1, 2, 3}


def test_under_bfloat16_the_difference_is_still_right():
    problem = Problem(torch.float32)
    u = torch.randn(1, 16, 12, generator=torch.Generator().manual_seed(0))

    def measure(sigma, enabled):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            step = sigma * rms(problem.codebook)
            return float(finite_difference(problem.f, problem.e, problem.f(problem.e), u, step).detach())

    assert measure(0.1, True) == pytest.approx(measure(0.1, False), rel=0.05)
    assert measure(1e-3, True) > 2 * measure(1e-3, False)  # why the step must not be small


@pytest.mark.parametrize("estimator", ["finite_difference", "vjp"])
def test_off_it_costs_nothing_and_on_it_damps(estimator):
    """Without a weight there is no such figure; with one, training leaves a smaller Jacobian."""
    batch = random_batch(random_model(), batch=4)
    off = DynamicsLossConfig(noise=NO_NOISE, jacobian=JacobianConfig(estimator=estimator))
    on = replace(off, jacobian=JacobianConfig(weight=20.0, estimator=estimator, every=1))
    counts = DynamicsObjective(random_model(), off, []).counts(batch)

    def run(model, config):
        return dynamics_loss(model, batch, counts, config, ClipNoise(0, 0, torch.arange(4)))

    plain, figures = run(random_model(), off)
    assert "jacobian" not in figures
    loss, with_penalty = run(random_model(), on)
    torch.testing.assert_close(loss, plain + 20 * with_penalty["jacobian"])
    after = []
    for config in (off, on):
        model = random_model()
        optimizer = torch.optim.Adam(model.dynamics.parameters(), 1e-3)
        for _ in range(8):
            optimizer.zero_grad()
            run(model, config)[0].backward()
            optimizer.step()
        after.append(float(run(model, on)[1]["jacobian"]))
    assert after[1] < 0.9 * after[0]


def test_the_weight_decays_to_nothing():
    config = JacobianConfig(weight=2.0, decay_steps=10)
    assert [config.weight_at(step) for step in (0, 5, 10, 20)] == [2.0, 1.0, 0.0, 0.0]
    assert JacobianConfig(weight=2.0).weight_at(10**6) == 2.0
    with pytest.raises(ValueError, match="sigma is positive"):
        JacobianConfig(sigma=0.0)
