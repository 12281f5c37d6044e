"""What one of two processes does in test_distributed.py: `process_pairs.py FOLDER PORT`, started by torchrun."""

import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
from small_runs import settings

from kakusan import building, choices
from kakusan.config import TrainConfig, merge
from kakusan.data.source import open_data
from kakusan.run_folder import read_state
from kakusan.train.distributed import LostRank, World
from kakusan.train.feed import Batch, Feed
from kakusan.train.joining import join, watched
from kakusan.train.optim import OptimSettings
from kakusan.train.parallel import parallel
from kakusan.train.run import TrainingRun
from kakusan.train.trainer import DiffusionLoss, Group, Trainer

# Nine samples by two processes: four and five. Way, optimizer, coupling, samples at once.
CASES = {
    "ddp": ("ddp", "adamw", "independent", None),
    "ddp in pieces, transport": ("ddp", "adamw", "transport", 2),
    "fsdp": ("fsdp", "adamw", "independent", None),
    "fsdp, muon": ("fsdp", "muon", "independent", 3),
}
BATCH, STEPS = 9, 4


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    """Training in fp64 throughout: data are, and what is meant to be at least fp32 is fp64 too."""
    made = Feed._made

    def double(self: Feed, *arguments: object) -> Batch:
        batch = made(self, *arguments)  # type: ignore[arg-type]
        return dataclasses.replace(batch, x0=batch.x0.double())

    with mock.patch.object(Feed, "_made", double), mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
        yield


def curve(case: str, world: World, steps: int = STEPS) -> list[float]:
    """Losses and norms of the gradient of a tiny run in fp64."""
    way, kind, coupling, at_once = CASES[case]
    pictures = open_data("flowers", num=32, size=8)
    config = merge(TrainConfig(), {"model": {"width": 8, "depth": 1}, "objective": {"coupling": coupling}})
    torch.manual_seed(0)
    with in_double():
        model = building.build_model(config.model, pictures.spec, coupling=coupling).double()
        shared = parallel(way, world)
        feed = Feed(pictures, seed=0, batch=BATCH, world=world)
        loss = shared.share(
            model, DiffusionLoss(model, choices.build_objective(config.objective, pictures.spec), seed=0), feed
        )
        group = Group(list(model.parameters()), loss, OptimSettings(optimizer=kind, rate=1e-2, warmup=1, clip=0.1))
        trainer = Trainer(model, [group], feed, steps=steps, parallel=shared, micro_batch=at_once)
        found = []
        for step in trainer.run():
            found += [step.losses[0], step.gradient_norms[0]]
        ema = shared.ema(trainer).averages["ema"]
    return [*found, *(float(value.double().sum()) for value in list(ema.values())[:4])]


def agree(world: World, out: Path) -> None:
    """What processes tell each other."""
    assert (world.size, world.main) == (2, world.rank == 0)
    assert world.gather({"rank": world.rank}) == [{"rank": 0}, {"rank": 1}]
    assert world.decide(lambda: [world.rank, None]) == [0, None]
    assert world.alone(lambda: 7) == (7 if world.main else None)
    assert world.part(9) == ((0, 4), (4, 5))[world.rank]
    assert not world.any(False)
    assert world.any(world.rank == 1)
    mine = torch.arange(2 + world.rank)[:, None] + 10 * world.rank
    assert world.rows(mine).flatten().tolist() == [0, 1, 10, 11, 12]
    order = out / "order.txt"
    world.first(lambda: order.open("a").write(str(world.rank)))
    assert order.read_text() == "01"


def curves(world: World, out: Path) -> None:
    found = {case: curve(case, world) for case in CASES}
    if world.main:
        (out / "curves.json").write_text(json.dumps(found))


def same(run: TrainingRun) -> bool:
    """Whether what the processes hold together is, bit for bit, what the newest checkpoint says."""
    model, averages, optimizer = run.parallel.whole(run.trainer, run.folder)
    if not run.world.main:
        return True
    path = run.folder.latest()
    assert path is not None
    weights, stored_optimizer, stored, _ = read_state(path)
    pairs = [(weights, model.state_dict()), (stored_optimizer, optimizer)]
    pairs += [(stored[profile], averages[profile]) for profile in stored]
    return all(a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a) for a, b in pairs)


def reload(world: World, out: Path) -> None:
    """Train in parts, go on from what one process saved, and leave a checkpoint for one process."""
    config = json.loads((out / "settings.json").read_text())
    for way in ("fsdp", "ddp"):
        go_on = settings(config["source"], **{**config["sections"], "engine": {"parallel": way}})
        run = TrainingRun(go_on, out / way, say=lambda line: None)
        assert run.trainer.step == 3
        assert same(run), f"{way}: what was read is not what one process wrote"
        run.run()
        assert same(run), f"{way}: what was written is not what the processes hold"
        world.barrier()


def reasons(world: World, out: Path) -> None:
    """A process that fails is named in the other, with what it said; and one that hangs is missed."""
    said = ""
    try:
        with world.watch():
            if world.rank == 1:
                raise ValueError("the disk of rank 1 is full")
            world.barrier()
    except LostRank as error:
        said = str(error)
    except ValueError:
        pass
    if world.main:
        assert "rank 1" in said, said
        assert "the disk of rank 1 is full" in said, said


def everything(world: World, out: Path) -> None:
    agree(world, out)
    curves(world, out)
    reload(world, out)
    # The last, because it leaves the world broken.
    reasons(world, out)


def kill(world: World, out: Path) -> None:
    """Rank 1 is killed in the middle of a run."""

    def on_step(step: object, run: TrainingRun) -> None:
        (out / "steps").write_text(str(run.trainer.step))

    config = json.loads((out.parent / "settings.json").read_text())
    run = TrainingRun(settings(config["source"], run={"steps": 2000}), out / "run", say=print, on_step=on_step)
    if world.rank == 1:
        taken = Trainer.take

        def take(self: Trainer, batch: Batch) -> object:
            if self.step == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return taken(self, batch)

        mock.patch.object(Trainer, "take", take).start()
    run.run()


def apart(scene: Callable[[World, Path], None], out: Path, port: str) -> None:
    """Play a scene that ends its processes in a twin of this one, so that importing serves both. The two twins meet
    at `port`, without torchrun; each leaves its exit code and what it said."""
    rank = os.environ["RANK"]
    out.mkdir(exist_ok=True)
    twin = os.fork()
    if twin == 0:
        os.environ |= {"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "False"}
        os.environ.pop("TORCHELASTIC_ERROR_FILE", None)
        log = os.open(out / f"said-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 70
        try:
            with watched():
                scene(join("cpu"), out)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(twin, 0)[1])
    (out / f"ended-{rank}").write_text(json.dumps([code, time.time()]))


if __name__ == "__main__":
    folder, port = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    # Curves are drawn elsewhere, and the other process would wait for it.
    with mock.patch("kakusan.train.run.end_report"):
        # Before anything else: a process that has computed gradients cannot be doubled.
        apart(kill, folder / "kill", port)
        with watched():
            everything(join("cpu"), folder)
