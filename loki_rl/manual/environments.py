"""The page of environments, in the form of gymnasium's own documentation, from their docstrings, spaces and options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import getdoc

from msgspec.structs import fields

from loki_rl.control.learned.observation import ACTIONS
from loki_rl.env import IDS
from loki_rl.env.gym import cluster_env
from loki_rl.env.gym.cluster_options import ClusterEnvOptions
from loki_rl.env.gym.spaces import NAMES, observation_space
from loki_rl.env.gym.vector_env import ClusterVectorEnv
from loki_rl.manual.keys import field_table
from loki_rl.reports.page import table
from loki_rl.traces.demand import TraceOptions

HEAD = """\
# Environments

Made by `make reference`. The twin as [gymnasium](https://gymnasium.farama.org) environments: an agent adjusts, each second,
the demand that the exact allocator prepares for. [learning.md](learning.md) says what agents are worth, [a
tutorial](tutorials/train.md) how the commands train them. The first `make` compiles for a minute, and says so.

```python
import gymnasium as gym

env = gym.make("loki_rl.env:LokiRL/Cluster-v1", intervals=60)  # traffic, 20 servers, fluid twin, bursty generator
observation, info = env.reset(seed=1)
done = False
while not done:
    action = env.action_space.sample(info["action_mask"].astype("int8"))
    observation, reward, _, done, info = env.step(action)
batch = gym.make_vec("loki_rl.env:LokiRL/Cluster-v1", num_envs=256)  # the same, natively batched
```

gymnasium has no entry points by which packages could make their environments known. What stands before the colon of a name
is the module that it imports first; after `import loki_rl.env` the name alone does.
"""
HEADINGS = re.compile(r"\*\*(.+?)\.\*\* ")


def environments_page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(line for name, kind in IDS.items() for line in _environment(name, kind)), *_vector()])


def _environment(name: str, kind: str) -> Iterator[str]:
    yield from (f"## {name}", "")
    space = observation_space()
    rows = [
        ("Action space", f"`Discrete({ACTIONS})`"),
        ("Observation space", f"`Box(shape={space.shape}, dtype={space.dtype})`"),
        ("Made by", f'`gym.make("{name}")`, `gym.make_vec("{name}", num_envs=N)`'),
    ]
    yield from (*table(("", ""), rows), "")
    yield from _sections(getdoc(getattr(cluster_env, kind)) or "")
    if kind == cluster_env.ClusterEnv.__name__:
        yield from (*_observations(), *_arguments())


def _sections(text: str) -> Iterator[str]:
    """A docstring whose paragraphs begin with **Title.**"""
    for paragraph in text.split("\n\n"):
        body, title = " ".join(paragraph.split()), HEADINGS.match(paragraph.lstrip())
        if title:
            yield from (f"### {title[1]}", "")
        yield from (HEADINGS.sub("", body, count=1), "")


def _observations() -> Iterator[str]:
    space = observation_space()
    low, high = getattr(space, "low"), getattr(space, "high")  # noqa: B009  (a Box, which Space does not tell)
    rows = [(str(number), f"`{name}`", f"{low[number]:g}", f"{high[number]:g}") for number, name in enumerate(NAMES)]
    yield from ("### Observations by number", "", *table(("num>", "observation", "min>", "max>"), rows), "")


def _arguments() -> Iterator[str]:
    yield from ("### Arguments", "", "Keywords of `gym.make` and `gym.make_vec`.", "")
    yield from (" ".join((getdoc(ClusterEnvOptions) or "").split()), "")
    own = [one.name for one in fields(ClusterEnvOptions) if one.name not in TraceOptions.__struct_fields__]
    yield from (*field_table(ClusterEnvOptions, own), "", "How a trace is replayed:", "", *field_table(TraceOptions), "")


def _vector() -> Iterator[str]:
    yield from ("## Vector environments", "", " ".join((getdoc(ClusterVectorEnv) or "").split()), "")
