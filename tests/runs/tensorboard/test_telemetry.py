"""Run folders as TensorBoard and as people read them: the same tags at the same steps from every driver."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from loki_rl.core.messages import Outcome
from loki_rl.core.plan import Certificate, Plan
from loki_rl.core.requests.ledger import PlanRecord, Second, Tally
from loki_rl.runs.options import RunOptions
from loki_rl.runs.result import RunResult
from loki_rl.runs.run import run_twin
from loki_rl.runs.run_folder import RunFolderError, folder_of, is_complete, load, load_current, save
from loki_rl.runs.tensorboard.curves import curves, plans_in_force, whole_seconds
from loki_rl.runs.tensorboard.tags import DESCRIPTIONS, FIGURES

SERVING = {
    f"serving/{name}"
    for name in ("slo_violation_ratio", "accuracy", "servers_used", "demand_rps", "goodput_rps", "switches")
}
LENGTH = 4

Points = dict[str, dict[int, float]]


def events(folder: Path) -> list[Any]:
    """Everything in the only event file of a folder, as TensorBoard reads it."""
    (file,) = folder.glob("events.out.tfevents.*")
    return list(EventFileLoader(str(file)).Load())


def points(folder: Path) -> Points:
    """tag -> step -> value."""
    found: Points = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "scalars":
                assert event.step not in found.setdefault(value.tag, {})
                found[value.tag][event.step] = value.tensor.float_val[0]
    return found


def plugin_data(folder: Path, tag: str) -> Any:
    """What the hparams plugin finds under a tag."""
    (value,) = [value for event in events(folder) for value in event.summary.value if value.tag == tag]
    return plugin_data_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)


# -- twin and plane -------------------------------------------------------------------------------------------------------


@dataclass
class Folders:
    logdir: Path
    results: dict[str, RunResult]
    folders: dict[str, Path]


@pytest.fixture(scope="module")
def written(played: dict[str, RunResult], tmp_path_factory: pytest.TempPathFactory) -> Folders:
    logdir = tmp_path_factory.mktemp("runs")
    return Folders(logdir, played, {driver: save(done, logdir) for driver, done in played.items()})


def test_a_run_has_its_folder(written: Folders) -> None:
    for driver, folder in written.folders.items():
        assert folder == written.logdir / driver / "exact" / "crowd" / "seed3"
        assert folder == folder_of(written.results[driver].options, written.logdir)
        assert is_complete(folder)


def test_twin_and_plane_write_the_same_tags_at_the_same_steps(written: Folders) -> None:
    twin, plane = (points(written.folders[driver]) for driver in ("twin", "emulated"))
    steps = {tag: list(values) for tag, values in twin.items()}
    assert steps == {tag: list(values) for tag, values in plane.items()}
    assert steps.keys() > SERVING
    for tag, found in steps.items():
        # One point a second of trace time; the final figures stand at its end.
        assert found == ([LENGTH] if tag.startswith("final/") else list(range(LENGTH))), tag


def test_the_curves_add_up_to_the_run(written: Folders) -> None:
    for driver, done in written.results.items():
        found = points(written.folders[driver])
        assert sum(found["serving/demand_rps"].values()) == done.summary.arrivals == found["final/arrivals"][LENGTH]
        assert sum(found["serving/goodput_rps"].values()) == done.summary.ok == found["final/ok"][LENGTH]
        assert found["final/slo_violation_ratio"][LENGTH] == pytest.approx(done.summary.slo_violation_ratio)
        assert max(found["serving/servers_used"].values()) <= done.servers
    twin, plane = (points(written.folders[driver])["serving/demand_rps"] for driver in ("twin", "emulated"))
    assert twin == plane


def test_the_hparams_page_knows_options_and_figures(written: Folders) -> None:
    config = plugin_data(written.logdir, metadata.EXPERIMENT_TAG).experiment
    assert {"driver", "policy", "trace"} <= {one.name for one in config.hparam_infos}
    assert {one.name.tag for one in config.metric_infos} == {f"final/{name}" for name in FIGURES}
    for driver, folder in written.folders.items():
        start = plugin_data(folder, metadata.SESSION_START_INFO_TAG).session_start_info
        assert start.group_name == f"{driver}/exact/crowd/seed3"
        assert start.hparams["driver"].string_value == driver
        assert start.hparams["servers"].number_value == 4
        assert start.hparams["seed"].number_value == 3
        assert plugin_data(folder, metadata.SESSION_END_INFO_TAG).session_end_info.status == 1


def test_the_custom_scalars_page_shows_tags_that_exist(written: Folders) -> None:
    (value,) = [one for event in events(written.logdir) for one in event.summary.value if "custom_scalars" in one.tag]
    category, seeds = layout_pb2.Layout.FromString(value.tensor.string_val[0]).category
    assert all(chart.margin.series[0].lower for chart in seeds.chart)
    shown = {tag for chart in category.chart for tag in chart.multiline.tag}
    assert shown <= points(written.folders["twin"]).keys()
    assert {"serving/slo_violation_ratio", "serving/accuracy", "serving/servers_used"} <= shown


def test_every_tag_says_what_it_means_and_a_run_has_a_card(written: Folders) -> None:
    for folder in written.folders.values():
        said: dict[str, str] = {}
        for event in events(folder):
            for value in event.summary.value:
                said.setdefault(value.tag, value.metadata.summary_description)
        scalars = points(folder).keys()
        assert all(said[tag] == DESCRIPTIONS[tag] for tag in scalars)
        (card,) = [v for event in events(folder) for v in event.summary.value if v.tag.startswith("run/card")]
        assert "**exact** on **crowd**, seed 3" in card.tensor.string_val[0].decode()


def test_a_folder_gives_the_result_back(written: Folders) -> None:
    for driver, done in written.results.items():
        back = load(written.folders[driver])
        assert (back.options, back.summary, back.tally.seconds) == (done.options, done.summary, done.tally.seconds)
        assert back.tally.plans == done.tally.plans
        assert load_current(written.folders[driver], done.options) == back


# -- folders --------------------------------------------------------------------------------------------------------------


def test_a_new_run_takes_the_place_of_the_old_one(make_result: Any, tmp_path: Path) -> None:
    first, again = make_result(ok=3), make_result(ok=9)
    folder = save(first, tmp_path)
    old = {path.name for path in folder.glob("events*")}
    assert save(again, tmp_path) == folder
    assert points(folder)["final/ok"] == {4: 18.0}
    # A TensorBoard that is looking would take a file of the same name for a longer version of what it has read.
    assert old.isdisjoint(path.name for path in folder.glob("events*"))
    assert not list(tmp_path.rglob(".*")), "a draft was left behind"


def test_only_a_folder_with_the_same_options_and_inputs_answers_for_a_run(
    run_options: RunOptions, small: Path, tmp_path: Path
) -> None:
    pipeline = tmp_path / "copy.yaml"
    pipeline.write_text(small.read_text())
    options = replace(run_options, pipeline=str(pipeline), policy="static")
    folder = save(run_twin(options), tmp_path)
    assert load_current(folder, options) is not None
    assert load_current(folder, replace(options, interval_s=2.0)) is None
    pipeline.write_text(small.read_text().replace("accuracy: 0.9,", "accuracy: 0.8,"))
    assert load_current(folder, options) is None


def test_half_a_folder_is_no_run(make_result: Any, tmp_path: Path) -> None:
    done = make_result(trace="flash_crowd")
    folder = save(done, tmp_path)
    (folder / "seconds.jsonl").write_text("{")
    assert load_current(folder, done.options) is None
    with pytest.raises(RunFolderError, match=r"seconds\.jsonl"):
        load(folder)
    (folder / "summary.json").unlink()
    assert not is_complete(folder)
    assert load_current(folder, done.options) is None


def test_a_plane_that_served_whoever_came_leaves_a_folder(make_result: Any, tmp_path: Path) -> None:
    done = make_result(trace="live")
    assert load(save(done, tmp_path)).summary == done.summary


def test_a_solver_out_of_time_leaves_a_gap_that_comes_back(make_result: Any, tmp_path: Path) -> None:
    done = make_result()
    plan = replace(done.tally.plans[0].plan, certificate=Certificate(bound=inf, gap=inf))
    done.tally.plans.append(PlanRecord(2.0, plan))
    assert load(save(done, tmp_path)).tally.plans == done.tally.plans


def test_run_json_holds_every_option(make_result: Any, tmp_path: Path) -> None:
    written = msgspec.json.decode((save(make_result(), tmp_path) / "run.json").read_bytes())
    assert written.keys() == set(RunOptions.__struct_fields__)


# -- curves ---------------------------------------------------------------------------------------------------------------


def second(arrivals: int = 0, ok: int = 0, accuracy: float = 0.0, servers: int = 0) -> Second:
    outcomes = [0] * len(Outcome)
    outcomes[Outcome.OK], outcomes[Outcome.LATE] = ok, arrivals - ok
    return Second(arrivals, outcomes, accuracy_sum=ok * accuracy, servers=servers)


def test_every_second_has_a_point_whatever_arrived() -> None:
    tally = Tally(seconds={1: second(4, 2, 0.5, servers=1), 3: second(2, 2, 0.75)})
    found = curves(tally, 4.0)
    assert [point["serving/slo_violation_ratio"] for point in found] == [0.0, 0.5, 0.0, 0.0]
    assert [point["serving/accuracy"] for point in found] == [0.5, 0.5, 0.5, 0.75]
    assert [point["serving/demand_rps"] for point in found] == [0, 4, 0, 2]
    assert [point["serving/servers_used"] for point in found] == [0, 1, 0, 0]


def test_who_looks_from_outside_claims_no_servers() -> None:
    found = curves(Tally(seconds={0: second(1, 1, 1.0)}), 1.0, cluster=False)
    assert found[0].keys() == {
        "serving/slo_violation_ratio",
        "serving/demand_rps",
        "serving/goodput_rps",
        "serving/accuracy",
    }


def test_what_was_sent_after_the_end_counts_to_the_last_second() -> None:
    tally = Tally(seconds={0: second(1, 1, 1.0, servers=2), 1: second(2, 0, servers=3), 5: second(3, 3, 0.5, servers=9)})
    first, last = whole_seconds(tally, 1.5)
    assert (first.arrivals, last.arrivals, last.outcomes[Outcome.OK], last.servers) == (1, 5, 3, 3)


def test_a_plan_is_in_force_from_its_time_on() -> None:
    plans = [
        Plan("hardware", (), servers, 1.0, 1.0, 1.0, 1.0, {"t": 1.0}, {"t": {"v": 1.0}}) for servers in (1, 2, 3)
    ]  # fmt: skip
    records = [PlanRecord(time, plan) for time, plan in zip((-1.0, 1.0, 2.5), plans, strict=True)]
    assert [plan.servers for plan in plans_in_force(records, 4)] == [1, 2, 3, 3]
    assert plans_in_force([], 4) == []
