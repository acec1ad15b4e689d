import torch

from whale.models.quantizer import VectorQuantizer, VQConfig, draw_far


def make(codes=8, dim=3, **more):
    torch.manual_seed(0)
    return VectorQuantizer(VQConfig(num_codes=codes, dim=dim, **more))


def test_nearest_equals_brute_force():
    quantizer, x = make(50, 5), torch.randn(200, 5)
    expected = torch.cdist(x.double(), quantizer.codebook_VC.double()).argmin(-1)
    assert torch.equal(quantizer.nearest(x), expected)


def test_straight_through_gradient():
    quantizer, x = make(), torch.randn(10, 3, requires_grad=True)
    code, token = quantizer(x)
    assert torch.allclose(code, quantizer.codebook_VC[token])
    code.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_k_means_finds_separated_clusters():
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(8, 3, generator=generator)
    x = (centres[:, None] + 0.01 * torch.randn(8, 50, 3, generator=generator)).flatten(0, 1)
    quantizer = make(8)
    quantizer.fit(x, torch.ones(len(x)), generator, iterations=30)
    error = (x - quantizer.codebook_VC[quantizer.nearest(x)]).norm(dim=-1)
    assert error.max() < 0.1


def test_moving_average_converges_to_the_mean_and_revives_dead_codes():
    generator = torch.Generator().manual_seed(0)
    quantizer = make(4, 2, decay=0.5)
    quantizer.codebook_VC.copy_(torch.tensor([[0.0, 0.0], [100.0, 100.0], [200.0, 0.0], [0.0, 300.0]]))
    quantizer.sum_VC.copy_(quantizer.codebook_VC)
    x = torch.tensor([[1.0, 1.0], [3.0, 3.0], [9.0, 9.0], [11.0, 11.0]])
    revived = 0
    for _ in range(40):
        token = quantizer.nearest(x)
        dead = quantizer.update(*quantizer.use_of(x, token))
        if num_dead := int(dead.sum()):
            quantizer.place(dead, x[draw_far(quantizer.distance(x, token), num_dead, generator)])
        revived += num_dead
    assert revived >= 3
    codes = quantizer.codebook_VC[quantizer.nearest(x)]
    assert (x - codes).norm(dim=-1).max() < 1.5  # four codes now share four points that one code had
