import torch
import torch.nn.functional as F
from tiny_model import random_batch, random_model

from whale.objectives.dynamics_loss import DynamicsLossConfig, DynamicsObjective, dynamics_loss, replace_tokens


def generator():
    return torch.Generator().manual_seed(0)


def test_cross_entropy_is_of_the_next_frame():
    """The target of frame t is frame t + 1: against the definition, one position at a time."""
    model = random_model()
    batch = random_batch(model)
    config = DynamicsLossConfig(token_noise=0.0)
    _, figures = dynamics_loss(model, batch, config, generator())
    features = model.action_features(batch)
    prior = model.prior(model.behavior.summary(model.codes(batch["tokens"])), features)
    noise = torch.randn(prior.mean.shape, generator=generator()).double()
    logits = model.predict(batch["tokens"], features, prior.sample(noise), batch).logits_BTSV
    total = [
        -F.log_softmax(logits[b, t, s], -1)[batch["tokens"][b, t + 1, s]]
        for b in range(2) for t in range(7) for s in range(16)
    ]  # fmt: skip
    torch.testing.assert_close(figures["cross_entropy"], torch.stack(total).mean())
    reward = F.mse_loss(
        model.predict(batch["tokens"], features, prior.sample(noise), batch).reward_BT, (batch["rewards"] - 0.4) / 0.3
    )
    torch.testing.assert_close(figures["reward_error"], reward, rtol=1e-6, atol=0)


def test_padding_and_masks_do_not_count():
    model = random_model()
    batch = random_batch(model)
    for name in ("valid", "reward_mask", "terminated_mask", "action_mask"):
        batch[name] = batch[name].clone()
        batch[name][:, 5:] = False
    batch["actions"] = batch["actions"] * batch["action_mask"]
    config = DynamicsLossConfig(token_noise=0.0)
    before, _ = dynamics_loss(model, batch, config, generator())
    spoiled = {**batch, "tokens": batch["tokens"].clone(), "rewards": batch["rewards"].clone()}
    spoiled["tokens"][:, 5:] = 0
    spoiled["rewards"][:, 5:] = 100.0
    after, _ = dynamics_loss(model, spoiled, config, generator())
    torch.testing.assert_close(before, after)


def test_every_parameter_but_the_tokenizers_receives_gradient():
    model = random_model()
    objective = DynamicsObjective(model, DynamicsLossConfig(), [])
    loss, _ = objective(random_batch(model), generator())
    loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert {name.partition(".")[0] for name in without} == {"tokenizer"}


def test_dynamics_gradient_reaches_the_prior_but_not_the_posterior():
    model = random_model()
    objective = DynamicsObjective(model, DynamicsLossConfig(behavior=0.0), [])
    objective(random_batch(model), generator())[0].backward()
    assert model.behavior.prior_out.weight.grad.abs().sum() > 0
    posterior = model.behavior.posterior_out.weight.grad
    assert posterior is None or posterior.abs().sum() == 0


def test_token_replacement_share_and_determinism():
    tokens = torch.arange(200_000).view(10, 200, 100)
    valid = torch.ones(10, 200, dtype=torch.bool)
    noisy = replace_tokens(tokens, valid, 0.1, generator())
    assert abs(float((noisy != tokens).float().mean()) - 0.1) < 0.005
    assert torch.equal(noisy, replace_tokens(tokens, valid, 0.1, generator()))
    assert torch.equal(replace_tokens(tokens, valid, 0.0, generator()), tokens)
    valid[5:] = False  # padding is not drawn from
    drawn = replace_tokens(tokens, valid, 1.0, generator())
    assert drawn.max() < tokens[5].min()


def test_frames_are_tokenized_on_the_way():
    model = random_model()
    objective = DynamicsObjective(model, DynamicsLossConfig(token_noise=0.0), [])
    batch = random_batch(model)
    frames = torch.randint(256, (2, 8, 16, 16, 3), dtype=torch.uint8)
    batch["tokens"] = model.tokenizer.encode(frames.flatten(0, 1)).unflatten(0, (2, 8))
    with_tokens, _ = objective(batch, generator())
    del batch["tokens"]
    with_frames, _ = objective({**batch, "frames": frames}, generator())
    assert torch.equal(with_tokens, with_frames)


def test_overfits_one_batch():
    torch.manual_seed(0)
    model = random_model().float().train()
    batch = {k: v.float() if v.dtype == torch.float64 else v for k, v in random_batch(model).items()}
    objective = DynamicsObjective(model, DynamicsLossConfig(token_noise=0.0), [])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(150):
        loss, figures = objective(batch, generator())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(figures["cross_entropy"].item())
    assert losses[-1] < 0.2 * losses[0]
