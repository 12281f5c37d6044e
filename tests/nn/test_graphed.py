"""Recorded calls: the bookkeeping holds with a recorder that a CPU can run; the graphs themselves need a GPU."""

import pytest
import torch
from torch import Tensor

from kakusan.conditioning import Condition, TokenSet
from kakusan.nn import CrossTokens, DiT, UNet
from kakusan.nn.graphed import MOST, Graphs, graphs_of


class Tape:
    """As a CUDA graph does it: the call is made again on the memory it was recorded with, into the memory of its
    result."""

    def __init__(self):
        self.recorded, self.replayed = 0, 0

    def __call__(self, call):
        self.recorded += 1
        out = call()

        def replay():
            self.replayed += 1
            out.copy_(call())

        return replay, out


def stirred(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=generator)
    return network.eval()


@pytest.fixture
def unet():
    return stirred(UNet(channels=3, rank=2, width=8, multipliers=(1, 2), condition_width=4))


def inputs(batch=2, seed=1, size=8):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 3, size, size, generator=generator)
    return x, torch.randn(1, generator=generator), Condition(vector=torch.randn(batch, 4, generator=generator))


def test_replayed_calls_are_the_calls_themselves_and_keep_their_results(unet):
    tape = Tape()
    graphs = Graphs(unet, tape)
    several = [inputs(seed=seed) for seed in range(4)]
    with torch.no_grad():
        plain = [unet(*given) for given in several]
        with graphs.active():
            found = [unet(*given) for given in several]
    for mine, theirs in zip(found, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    assert (tape.recorded, tape.replayed) == (1, 4)


def test_every_shape_has_a_recording_of_its_own(unet):
    tape = Tape()
    graphs = Graphs(unet, tape)
    with torch.no_grad(), graphs.active():
        for given in (inputs(2), inputs(3), inputs(2, seed=5), inputs(2, size=16)):
            found = unet(*given)
            torch.testing.assert_close(found, unet._call_impl(*given), rtol=0, atol=0)
    assert tape.recorded == 3


def test_a_missing_condition_stays_an_error(unet):
    with torch.no_grad(), Graphs(unet, Tape()).active(), pytest.raises(ValueError, match="condition"):
        unet(*inputs()[:2], None)


def test_an_expanded_condition_and_tokens_with_masks_are_copied_row_by_row():
    network = stirred(DiT(channels=3, rank=2, width=32, depth=2, patch=4, tokens=CrossTokens({"text": 6})))
    tape = Tape()
    graphs = Graphs(network, tape)
    generator = torch.Generator().manual_seed(3)
    x, c_noise, _ = inputs()
    one = Condition(tokens={"text": TokenSet(torch.randn(1, 5, 6, generator=generator), torch.ones(1, 5).bool())})
    two = Condition(
        tokens={
            "text": TokenSet(
                torch.randn(2, 5, 6, generator=generator), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]).bool()
            )
        }
    )
    with torch.no_grad():
        plain = [network(x, c_noise, one.expand(2)), network(x, c_noise, two)]
        assert not torch.equal(plain[0], plain[1])
        with graphs.active():
            found = [network(x, c_noise, one.expand(2)), network(x, c_noise, two)]
    assert tape.recorded == 1
    for mine, theirs in zip(found, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_new_weights_in_other_memory_are_recorded_anew(unet):
    tape = Tape()
    graphs = Graphs(unet, tape)
    given = inputs()
    with torch.no_grad(), graphs.active():
        before = unet(*given)
    for p in unet.parameters():
        p.data = 2.0 * p.data
    with torch.no_grad():
        plain = unet(*given)
        with graphs.active():
            after = unet(*given)
    torch.testing.assert_close(after, plain, rtol=0, atol=0)
    assert not torch.equal(before, after)
    assert tape.recorded == 2


def test_mixed_precision_is_a_kind_of_call(unet):
    tape = Tape()
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            plain = unet(*inputs())
        with Graphs(unet, tape).active():
            full = unet(*inputs())
            with torch.autocast("cpu", dtype=torch.bfloat16):
                mixed = [unet(*inputs()), unet(*inputs())]
    assert (tape.recorded, tape.replayed) == (2, 3)
    assert not torch.equal(full, plain.float())
    for found in mixed:
        torch.testing.assert_close(found, plain, rtol=0, atol=0)


def test_gradients_and_training_run_as_written(unet):
    tape = Tape()
    with Graphs(unet, tape).active():
        unet(*inputs()).sum().backward()
        unet.train()
        with torch.no_grad():
            unet(*inputs())
    assert tape.recorded == 0
    assert unet._compiled_call_impl is None


def test_what_cannot_be_recorded_runs_as_written_and_says_so_once(unet):
    def refuse(call):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    with torch.no_grad():
        plain = unet(*inputs())
        with Graphs(unet, refuse).active():
            with pytest.warns(UserWarning, match="runs as written: operation not permitted when stream is capturing$"):
                first = unet(*inputs())
            second = unet(*inputs())
    torch.testing.assert_close(first, plain, rtol=0, atol=0)
    torch.testing.assert_close(second, plain, rtol=0, atol=0)


def test_the_number_of_recordings_is_bounded(unet):
    tape = Tape()
    with torch.no_grad(), Graphs(unet, tape).active():
        for batch in range(1, MOST + 4):
            unet(*inputs(batch))
    assert tape.recorded == MOST


def test_a_model_on_a_cpu_is_told_to_leave_them_out(unet):
    with pytest.raises(ValueError, match="need a CUDA device, this model is on cpu"):
        graphs_of(unet)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_cuda_graph_says_what_the_network_says(unet):
    unet = unet.cuda()
    given = [inputs(seed=seed) for seed in range(3)]
    several = [(x.cuda(), c_noise.cuda(), cond.map(Tensor.cuda)) for x, c_noise, cond in given]
    with torch.no_grad():
        plain = [unet(*given) for given in several]
        with graphs_of(unet).active():
            found = [unet(*given) for given in several]
    for mine, theirs in zip(found, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
