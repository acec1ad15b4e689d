import torch
import torch.nn.functional as F
from tiny_model import random_batch, random_model

from whale.objectives.clip_noise import ClipNoise
from whale.objectives.dynamics_loss import DynamicsLossConfig, dynamics_loss, dynamics_terms
from whale.objectives.dynamics_objective import DynamicsObjective
from whale.objectives.noise import NO_NOISE, NoiseConfig, replace_tokens


def noise(batch=2):
    return ClipNoise(0, 0, torch.arange(batch))


def loss_of(model, batch, config):
    counts = DynamicsObjective(model, config, []).counts(batch)
    return dynamics_loss(model, batch, counts, config, noise())


def run(objective, batch):
    return objective(batch, objective.counts(batch), noise())[0]


def test_cross_entropy_is_of_the_next_frame():
    """The target of frame t is frame t + 1: against the definition, one position at a time."""
    model = random_model()
    batch = random_batch(model)
    config = DynamicsLossConfig(noise=NO_NOISE)
    _, figures = loss_of(model, batch, config)
    features = model.action_features(batch)
    prior = model.prior(model.behavior.summary(model.codes(batch["tokens"])), features)
    draw = noise().normal(*prior.mean.shape[1:]).double()
    logits = model.predict(batch["tokens"], features, prior.sample(draw), batch).logits_BTSV
    total = [
        -F.log_softmax(logits[b, t, s], -1)[batch["tokens"][b, t + 1, s]]
        for b in range(2) for t in range(7) for s in range(16)
    ]  # fmt: skip
    torch.testing.assert_close(figures["cross_entropy"], torch.stack(total).mean())
    reward = F.mse_loss(
        model.predict(batch["tokens"], features, prior.sample(draw), batch).reward_BT, (batch["rewards"] - 0.4) / 0.3
    )
    torch.testing.assert_close(figures["reward_error"], reward, rtol=1e-6, atol=0)


def test_padding_and_masks_do_not_count():
    model = random_model()
    batch = random_batch(model)
    for name in ("valid", "reward_mask", "terminated_mask", "action_mask"):
        batch[name] = batch[name].clone()
        batch[name][:, 5:] = False
    batch["actions"] = batch["actions"] * batch["action_mask"]
    config = DynamicsLossConfig(noise=NO_NOISE)
    before, _ = loss_of(model, batch, config)
    spoiled = {**batch, "tokens": batch["tokens"].clone(), "rewards": batch["rewards"].clone()}
    spoiled["tokens"][:, 5:] = 0
    spoiled["rewards"][:, 5:] = 100.0
    after, _ = loss_of(model, spoiled, config)
    torch.testing.assert_close(before, after)


def test_rewards_and_actions_of_merged_steps_do_not_count_and_frames_after_them_do():
    model = random_model()
    batch = random_batch(model)
    merged = batch["merged"].clone()
    merged[0, 2] = merged[1, 4:6] = True
    _, plain = loss_of(model, batch, DynamicsLossConfig())
    _, found = loss_of(model, batch | {"merged": merged}, DynamicsLossConfig())
    for name in ("cross_entropy", "termination", "behavior_kl"):
        assert torch.equal(found[name], plain[name]), name
    spoiled = batch | {"merged": merged, "rewards": batch["rewards"].masked_fill(merged, 100.0)}
    assert torch.equal(loss_of(model, spoiled, DynamicsLossConfig())[1]["reward_error"], found["reward_error"])
    masked = batch | {"reward_mask": batch["reward_mask"] & ~merged}
    torch.testing.assert_close(loss_of(model, masked, DynamicsLossConfig())[1]["reward_error"], found["reward_error"])

    entries = dynamics_terms(model, batch, DynamicsLossConfig(), noise())
    for name in ("action_log_prob", "action_log_prob_prior", "action_log_prob_zero"):
        by_hand = entries[name].value[~merged].sum() / (batch["action_mask"][~merged].sum())
        torch.testing.assert_close(found[name], by_hand, rtol=1e-6, atol=0)


def test_every_parameter_but_the_tokenizers_receives_gradient():
    model = random_model()
    objective = DynamicsObjective(model, DynamicsLossConfig(), [])
    run(objective, random_batch(model)).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert {name.partition(".")[0] for name in without} == {"tokenizer"}


def test_dynamics_gradient_reaches_the_prior_but_not_the_posterior():
    model = random_model()
    objective = DynamicsObjective(model, DynamicsLossConfig(behavior=0.0), [])
    run(objective, random_batch(model)).backward()
    assert model.behavior.prior_out.weight.grad.abs().sum() > 0
    posterior = model.behavior.posterior_out.weight.grad
    assert posterior is None or posterior.abs().sum() == 0


def test_token_replacement_share_and_determinism():
    tokens = torch.arange(200_000).view(10, 200, 100)
    valid = torch.ones(10, 200, dtype=torch.bool)
    noisy = replace_tokens(tokens, valid, 0.1, noise(10))
    assert abs(float((noisy != tokens).float().mean()) - 0.1) < 0.005
    assert torch.equal(noisy, replace_tokens(tokens, valid, 0.1, noise(10)))
    assert torch.equal(replace_tokens(tokens, valid, 0.0, noise(10)), tokens)
    valid[:, 150:] = False  # padding is not drawn from
    drawn = replace_tokens(tokens, valid, 1.0, noise(10)).flatten(1)
    assert (drawn >= tokens[:, :1, 0]).all() and (drawn < tokens[:, 150, :1]).all()
    assert (drawn > tokens[:, 148, :1]).any(1).all()  # and all of the rest is


def test_the_mean_loss_of_parts_is_the_loss_of_the_batch():
    """However a batch is shared out, although its clips are masked differently."""
    model = random_model()
    batch = random_batch(model, batch=4)
    for name, lengths in (("valid", (8, 3, 5, 8)), ("reward_mask", (8, 0, 2, 0)), ("terminated_mask", (0, 0, 5, 1))):
        batch[name] = torch.arange(8) < torch.tensor(lengths)[:, None]
    batch["action_mask"] = batch["action_mask"] & batch["valid"][..., None]
    batch["merged"][1] = batch["merged"][3, ::2] = True
    objective = DynamicsObjective(model, DynamicsLossConfig(noise=NoiseConfig(tokens=0.2)), [])
    counts = objective.counts(batch)
    whole, figures = objective(batch, counts, noise(4))
    for cut in (1, 2):
        parts = [slice(i, i + cut) for i in range(0, 4, cut)]
        share = {name: count / len(parts) for name, count in counts.items()}
        done = []
        for part in parts:
            piece = {name: value[part] for name, value in batch.items()}
            done.append(objective(piece, share, ClipNoise(0, 0, torch.arange(4)[part])))
        torch.testing.assert_close(torch.stack([loss for loss, _ in done]).mean(), whole)
        for name in ("cross_entropy", "reward_error", "termination", "behavior_kl", "action_log_prob"):
            torch.testing.assert_close(torch.stack([f[name] for _, f in done]).mean(), figures[name])


def test_frames_are_tokenized_on_the_way():
    model = random_model()
    objective = DynamicsObjective(model, DynamicsLossConfig(noise=NO_NOISE), [])
    batch = random_batch(model)
    frames = torch.randint(256, (2, 8, 16, 16, 3), dtype=torch.uint8)
    batch["tokens"] = model.tokenizer.encode(frames.flatten(0, 1)).unflatten(0, (2, 8))
    with_tokens = run(objective, batch)
    del batch["tokens"]
    with_frames = run(objective, {**batch, "frames": frames})
    assert torch.equal(with_tokens, with_frames)


def test_overfits_one_batch():
    torch.manual_seed(0)
    model = random_model().float().train()
    batch = {k: v.float() if v.dtype == torch.float64 else v for k, v in random_batch(model).items()}
    objective = DynamicsObjective(model, DynamicsLossConfig(noise=NO_NOISE), [])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(150):
        loss, figures = objective(batch, objective.counts(batch), noise())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(figures["cross_entropy"].item())
    assert losses[-1] < 0.2 * losses[0]
