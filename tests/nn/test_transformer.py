"""Laws of the block stack: positions, attention, mixing of values, routing, and a ViT made of the same blocks."""

from __future__ import annotations

import itertools

import pytest
import torch
from token_networks import ATTENTION, TOKENS, awake, randn, small, token_sets
from torch import nn

from kakusan.nn import LinearAttention, PatchEmbedding, Route, SoftmaxAttention, Transformer, attention, rotary
from kakusan.nn.tokens import CrossAttention, SelfAttention
from kakusan.nn.transformer import SwiGlu, hidden_width

GRIDS = [(9,), (4, 5), (2, 3, 4)]
CPU = torch.device("cpu")


def places(grid):
    return torch.tensor(list(itertools.product(*map(range, grid))))


@pytest.mark.parametrize("grid", GRIDS)
def test_scores_depend_on_differences_of_positions_only(grid):
    table = rotary.rotations(grid, 6, CPU)
    q, k = randn(1, 1, 1, 12, seed=1), randn(1, 1, 1, 12, seed=2)
    count = len(table)
    scores = (
        rotary.rotate(q.expand(1, count, 1, 12), table)[0, :, 0]
        @ rotary.rotate(k.expand(1, count, 1, 12), table)[0, :, 0].T
    )
    where = places(grid)
    seen = {}
    for i, j in itertools.product(range(count), repeat=2):
        difference = tuple((where[i] - where[j]).tolist())
        torch.testing.assert_close(scores[i, j], seen.setdefault(difference, scores[i, j]), rtol=0, atol=1e-4)
    # Every axis is told apart: no two differences have the same score.
    values = torch.stack(list(seen.values()))
    assert (values[:, None] - values).abs().fill_diagonal_(1.0).min() > 1e-5


@pytest.mark.parametrize("grid", GRIDS)
def test_rotations_keep_lengths_and_agree_with_the_products_written_out(grid):
    table, x = rotary.rotations(grid, 5, CPU), randn(2, len(places(grid)), 3, 10)
    turned = rotary.rotate(x, table)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    # float64 takes the other path.
    torch.testing.assert_close(rotary.rotate(x.double(), table).float(), turned, rtol=0, atol=1e-5)
    assert torch.equal(turned[:, 0], x[:, 0])


def test_a_larger_grid_agrees_where_both_have_places():
    small_table, large = rotary.rotations((3, 4), 8, CPU), rotary.rotations((5, 9), 8, CPU)
    assert torch.equal(large.view(5, 9, 8, 2)[:3, :4].reshape(12, 8, 2), small_table)
    small_sines, large_sines = rotary.sines((3, 4), 16, CPU), rotary.sines((5, 9), 16, CPU)
    assert torch.equal(large_sines.view(5, 9, 16)[:3, :4].reshape(12, 16), small_sines)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("width", [7, 12])
def test_sines_tell_all_places_apart(grid, width):
    table = rotary.sines(grid, width, CPU)
    assert table.shape == (len(places(grid)), width)
    assert (torch.cdist(table, table) + torch.eye(len(table))).min() > 1e-2


def test_a_table_made_while_sampling_serves_training():
    with torch.inference_mode():
        table = rotary.rotations((13,), 4, CPU)
    x = randn(1, 13, 1, 8).requires_grad_()
    rotary.rotate(x, table).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("kind", ATTENTION)
def test_without_positions_tokens_may_be_permuted(kind):
    stack = awake(Transformer(width=16, depth=2, attention=kind))
    x, order = randn(2, 7, 16), torch.randperm(7)
    torch.testing.assert_close(stack(x[:, order]), stack(x)[:, order], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ATTENTION)
def test_positions_moved_together_change_nothing(kind):
    # Tokens at places 0 to 4 of a line and at places 3 to 7.
    stack = awake(Transformer(width=16, depth=2, attention=kind))
    x, table = randn(2, 5, 16), rotary.rotations((8,), stack.pairs, CPU)
    here, there = stack(x, rotation=table[:5]), stack(x, rotation=table[3:])
    torch.testing.assert_close(there, here, rtol=0, atol=1e-4)
    assert (stack(x) - here).abs().max() > 1e-3


def test_softmax_attention_is_its_formula():
    layer = awake(SelfAttention(12, SoftmaxAttention(heads=3)))
    x, mask = randn(2, 5, 12), torch.tensor([[True] * 5, [True, True, False, True, False]])
    out, values = layer(x, None, mask, None)
    q, k, v = layer.qkv(x).view(2, 5, 3, 3, 4).permute(2, 0, 3, 1, 4)
    assert torch.equal(values, v.transpose(1, 2))
    q, k = (y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() for y in (q, k))
    logits = q @ k.mT / 2.0 * layer.core.log_scale.exp()[None, :, :, None]
    logits = logits.masked_fill(~mask[:, None, None], -torch.inf)
    torch.testing.assert_close(out, layer.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2)))


def test_plain_and_fused_attention_agree(monkeypatch):
    network = awake(small(tokens=TOKENS[1]))
    x, c_noise, cond = randn(2, 2, 8, 8), randn(2), token_sets(2)
    plain = network(x, c_noise, cond)
    monkeypatch.setattr(attention, "CPU_PLAIN_LIMIT", 0)
    torch.testing.assert_close(network(x, c_noise, cond), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_linear_attention_equals_its_quadratic_form(masked):
    products = LinearAttention(heads=2).products(16)
    q, k, v = (randn(2, 6, 2, 8, seed=s) for s in range(3))
    mask = torch.arange(6) < torch.tensor([[6], [4]]) if masked else None
    table = rotary.rotations((6,), 4, CPU)
    features, keys = products.features(q), products.key_features(k, mask)
    torch.testing.assert_close(features.sum(-1), torch.ones(2, 6, 2))
    torch.testing.assert_close(keys.sum(1), torch.ones(2, 2, 8))
    features, keys = rotary.rotate(features, table), rotary.rotate(keys, table)
    weights = torch.einsum("bihd,bjhd->bhij", features, keys)
    quadratic = torch.einsum("bhij,bjhd->bihd", weights, v)
    torch.testing.assert_close(products.mix(features, keys, v, mask), quadratic, rtol=0, atol=1e-5)


def test_linear_attention_costs_in_proportion_to_its_tokens():
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    for length in (64, 128, 256):
        layer = SelfAttention(16, LinearAttention(heads=2))
        with FlopCounterMode(display=False) as counter:
            layer(randn(1, length, 16), rotary.rotations((length,), 4, CPU), None, None)
        counts.append(counter.get_total_flops())
    assert counts[1] == 2 * counts[0]
    assert counts[2] == 4 * counts[0]


@pytest.mark.parametrize("kind", ATTENTION)
def test_cross_attention_to_nothing_is_zero(kind):
    layer = awake(CrossAttention(16, kind))
    context, mask = randn(2, 3, 16), torch.tensor([[False] * 3, [True, False, True]])
    out = layer(randn(2, 5, 16), context, mask)
    torch.testing.assert_close(out[0], torch.zeros(5, 16))
    assert out[1].abs().max() > 1e-3


def test_values_are_mixed_with_those_of_the_first_block():
    layer = awake(SelfAttention(12, SoftmaxAttention(heads=3), value_residual=True))
    x, first = randn(2, 5, 12), randn(2, 5, 3, 4, seed=1)
    shares = {}
    for share in (0.0, 0.3, 1.0):
        with torch.no_grad():
            layer.share.fill_(share)
        shares[share] = layer(x, None, None, first)[0]
    # Linear in the values: attention weights do not depend on them.
    torch.testing.assert_close(shares[0.3], 0.7 * shares[0.0] + 0.3 * shares[1.0], rtol=0, atol=1e-5)
    torch.testing.assert_close(shares[0.0], layer(x, None, None, None)[0])
    stack = Transformer(width=12, depth=3, attention=SoftmaxAttention(heads=3), value_residual=True)
    assert [block.attention.share is not None for block in stack.blocks] == [False, True, True]


@pytest.mark.parametrize("tokens", [None, *TOKENS])
def test_routing_is_off_in_evaluation_and_without_a_share(tokens):
    parts = {"tokens": tokens, "registers": 1, "value_residual": True}
    x, c_noise, cond = randn(3, 2, 8, 8), randn(3), token_sets(3) if tokens else None
    plain = awake(small(**parts))
    expected = plain(x, c_noise, cond)
    for route, training in [(Route(1, 2, 0.5), False), (Route(1, 2, 0.0), True)]:
        network = small(**parts, route=route)
        network.load_state_dict(plain.state_dict())
        assert torch.equal(network.train(training)(x, c_noise, cond), expected)


@pytest.mark.parametrize("end", [2, 3])
def test_routed_tokens_skip_blocks_and_nothing_else(end):
    network = awake(Transformer(width=16, depth=3, route=Route(1, end, 0.5), value_residual=True)).train()
    lengths, x = [], randn(2, 10, 16)
    for block in network.blocks:
        block.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    torch.manual_seed(1)
    out = network(x, rotation=rotary.rotations((10,), 8, CPU), extra=2)
    assert lengths == [10, 6, 10 if end == 2 else 6]
    # By hand: the tokens that stay go through the middle alone, the others wait.
    torch.manual_seed(1)
    chosen = torch.rand(2, 8).argsort(dim=1)[:, :4]
    table = rotary.rotations((10,), 8, CPU)
    for sample in range(2):
        index = torch.cat([chosen[sample], torch.tensor([8, 9])])
        start, values = network.blocks[0](x[sample, None], None, table, None, None, None, None)
        part, first, turned = start[:, index], values[:, index], table[index]
        for block in network.blocks[1:end]:
            part, _ = block(part, None, turned, None, first, None, None)
        whole = start.clone()
        whole[:, index] = part
        for block in network.blocks[end:]:
            whole, _ = block(whole, None, table, None, values, None, None)
        torch.testing.assert_close(out[sample], whole[0], rtol=0, atol=1e-5)


def test_routes_are_drawn_from_torchs_generator_and_reach_all_gradients():
    network = awake(small(route=Route.through(3, 0.5), tokens=TOKENS[1])).train()
    x, c_noise, cond, outs = randn(2, 2, 8, 8), randn(2), token_sets(2), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(network(x, c_noise, cond))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    outs[2].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("depth", range(3, 9))
def test_the_usual_route_leaves_blocks_at_both_ends(depth):
    route = Route.through(depth, 0.5)
    assert 1 <= route.start < route.end < depth


@pytest.mark.parametrize(("start", "end", "share"), [(0, 2, 0.5), (2, 2, 0.5), (1, 2, 1.0), (1, 2, -0.1)])
def test_wrong_routes_are_refused(start, end, share):
    with pytest.raises(ValueError, match=r"\d"):
        Route(start, end, share)


def test_short_stacks_have_no_route():
    with pytest.raises(ValueError, match="at least 3"):
        Route.through(2, 0.5)


@pytest.mark.parametrize("width", [24, 256, 384, 768, 1152])
def test_a_gated_mlp_does_the_arithmetic_of_a_plain_one(width):
    hidden = hidden_width(width, 4.0)
    assert hidden % 8 == 0
    assert abs(3 * hidden - 2 * 4 * width) <= 3 * 4
    layer, x = SwiGlu(width, hidden), randn(2, width)
    gate, value = layer.enter.weight.chunk(2)
    expected = (nn.functional.silu(x @ gate.T) * (x @ value.T)) @ layer.leave.weight.T
    torch.testing.assert_close(layer(x), expected)


def test_a_vit_is_the_same_blocks_and_learns():
    class ViT(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = PatchEmbedding(channels=1, rank=2, patch=4, width=16)
            self.blocks = Transformer(width=16, depth=2, attention=SoftmaxAttention(heads=2))
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            table = rotary.rotations((2, 2), self.blocks.pairs, x.device)
            return self.head(self.blocks(self.patches(x), rotation=table).mean(1))

    torch.manual_seed(0)
    network = ViT()
    # Which of two halves is bright: position alone tells.
    labels = torch.arange(32) % 2
    x = 0.1 * randn(32, 1, 8, 8)
    x[labels == 0, :, :4] += 1.0
    x[labels == 1, :, 4:] += 1.0
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(40):
        loss = nn.functional.cross_entropy(network(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (network(x).argmax(1) == labels).all()


def test_modulation_is_given_exactly_when_it_is_taken():
    plain, modulated = Transformer(width=16, depth=1), Transformer(width=16, depth=1, modulated=True)
    with pytest.raises(ValueError, match="modulated=False"):
        plain(randn(1, 3, 16), torch.zeros(1, 1, 6, 16))
    with pytest.raises(ValueError, match="modulated=True"):
        modulated(randn(1, 3, 16))
