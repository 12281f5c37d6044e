"""Train on a Ray cluster: `python examples/ray_train.py FOLDER OUT [processes]`. Needs `pip install "ray[train]"`.

Ray sets what torchrun sets (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), so each worker just runs. OUT must
lie on a file system that all machines share; starting again goes on from the last checkpoint.
"""

from __future__ import annotations

import sys


def loop(settings: dict[str, str]) -> None:
    """What every worker does."""
    import torch.distributed as dist

    from kakusan.config import TrainConfig, merge
    from kakusan.train.joining import watched
    from kakusan.train.run import TrainingRun

    # Ray has joined the workers already; kakusan joins them itself, with signs of life.
    if dist.is_initialized():
        dist.destroy_process_group()
    config = merge(TrainConfig(), {"data": {"source": settings["source"]}})
    with watched():
        TrainingRun(config, settings["out"]).run()


def main() -> None:
    """Start the workers."""
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    source, out = sys.argv[1:3]
    workers = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    scaling = ScalingConfig(num_workers=workers, use_gpu=True)
    TorchTrainer(loop, train_loop_config={"source": source, "out": out}, scaling_config=scaling).fit()


if __name__ == "__main__":
    main()
