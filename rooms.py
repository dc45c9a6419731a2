"""Moves the files of a clean checkout into rooms, renames modules and classes, and rewrites all that names them.

    cd CHECKOUT && .venv/bin/python rooms.py            # writes and stages; commits nothing
    cd CHECKOUT && .venv/bin/python rooms.py --check    # only says what it would leave where it is

Files that no table below knows stay where they are, with a warning; entries of files that are not there are passed over.
Everything is rewritten from the text as it is at the start, once: it must not be run a second time on its own result.
"""

from __future__ import annotations

import ast
import hashlib
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter, defaultdict
from pathlib import Path

LINKED = ("agents", "env", "serving", "traces")  # folders at the top that loki_rl/ has links to
WIDTH = 125
MARKDOWN_WIDTH = 130

# ---------------------------------------------------------------------------------------------------------------- tables

# Folder -> "module" or "module=new name" of the folder that is named first in each line: where today's files go.
PLACES = {
    # core
    "loki_rl/core > loki_rl/core/requests": "families=items offspring open_requests ledger histogram seconds",
    "loki_rl/core > loki_rl/core/routing": (
        "queue pullers=credits leases shares=deficit_round_robin flow=token_buckets floors=accuracy_floor routing_table "
        "pull_router table_router verdicts"
    ),
    "loki_rl/core > loki_rl/core/servers": "servers server_type machine=server_record transition rollout exclusions drift",
    "loki_rl/core > loki_rl/core": (
        "actor cluster controller draws effects gateway journal messages mix options pipeline contradictions=validation plan "
        "router worker"
    ),
    # control
    "loki_rl/control > loki_rl/control": "compiled compiling recent=lru",
    "loki_rl/control > loki_rl/control/demand": (
        "demand=estimators exceedance forecast forecast_learned reserve=capacity_target"
    ),
    "loki_rl/control > loki_rl/control/formulation": (
        "request latency accuracy configurations network setting=prepared problem model measured=drifted"
    ),
    "loki_rl/control > loki_rl/control/solver": "program simplex relaxation branching own_solver highs solver=solve",
    "loki_rl/control > loki_rl/control/branch_and_price": (
        "joint=master_problem hull=route_pricing pricing master fleets=search likely=restriction"
    ),
    "loki_rl/control > loki_rl/control/allocator": (
        "allocator=allocate search modes shedding switching transition kept=cached_model wide=implicit_model greedy "
        "realise=plan_extraction plans=plan_writer ladder reasons"
    ),
    "loki_rl/control > loki_rl/control/explain": "prices verify",
    "loki_rl/control > loki_rl/control/policies": "policies=planner adjusted=ppo proteus",
    "loki_rl/control > loki_rl/control/learned": "agent observation",
    "loki_rl/control > loki_rl/control/fast": (
        "fleet=model_arrays fleet_kernels=objective_kernels fleet_search=local_search table table_kernels"
    ),
    # loki_rl
    "loki_rl > loki_rl": "__main__",
    "loki_rl > loki_rl/files": "config pipeline_yaml profile_file pool_file tables user_folders",
    "loki_rl > loki_rl/runs": "runs=run cases=batch_runner live replays run_folder telemetry event_files curves",
    "loki_rl > loki_rl/reports": "averages=summary contrasts=paired report page plots cost_chart compare",
    "loki_rl > loki_rl/cli": "terminal top top_screen demo",
    "loki_rl > loki_rl/paper": "study studies study_chart suite",
    "loki_rl > loki_rl/reading": "picture=drawing",
    "loki_rl/cli > loki_rl/cli": "flags learning living main measuring planning results running",
    # agents
    "agents > agents": "commands forecast_commands export",
    "agents > agents/train": (
        "train=training forecast_train=forecaster network vec_env foresight=privileged_critic validation"
    ),
    "agents > agents/evaluate": (
        "evaluate=evaluation evaluation_report=report contenders=methods matched=matched_comparison shielded=guarded_agent "
        "rollouts shifts event_check"
    ),
    "agents > loki_rl/reports": "statistics",
    # env
    "env > env": "world kernel faults disturbed simulate histogram",
    "env > env/fluid": (
        "fluid=dynamics fluid_batch=batch fluid_demand=demand fluid_step=step fluid_windows=windows"
    ),
    "env > env/gym": "cluster_env cluster_options event_cluster render spaces vector_env",
    # serving
    "serving > serving": "folder plane state",
    "serving > serving/process": (
        "launch supervisor node child tether=parent_watch heartbeat restart_budget compile_time"
    ),
    "serving > serving/transport": (
        "driver mailbox wire parts=multipart payloads doorbell=event_queue alarm=deadline_timer lane=serial_executor addresses "
        "listening monitor timers protocol"
    ),
    "serving > serving/gateway": (
        "front=client_socket reception=gateway_adapter entrance=schema survey=state_query client connection "
        "bridge=async_client departures ledger_keeper ledger_snapshot"
    ),
    "serving > serving/edge": "http http_answers native_proxy oip oip_answers oip_models rpc rpc_codec zmtp",
    "serving > serving/engines": (
        "engine emulated threaded onnx_engine sessions providers device engine_cache hardware hosting=placement_check "
        "workshop=engine_factory repository=files stored=model_repository"
    ),
    "serving > serving/observe": "logs meter metrics tracing span_options names",
    "serving > serving/load": "replay sender native_sender http_sender",
    "serving > serving/profiling": "profile timing dominance labelled as_served rescale worker_log neighbours=host_load",
    "serving > serving/controlling": "planner policy control_log",
    "serving > loki_rl/reading": "scenes models packages quantize quality",
    "serving/adapters > serving/engines": "adapter",
    "serving/adapters > loki_rl/reading": "detection recognition pictures",
    # traces
    "traces > traces": "arrivals demand generate mmpp rows sketch sources stats trace",
    # tests
    "tests > tests": "conftest test_contracts",
    "tests > tests/files": "test_config test_pool_file test_profile_file test_user_folders",
    "tests > tests/runs": "test_live test_runs=test_run test_telemetry test_agent_live",
    "tests > tests/reports": "test_compare test_contrasts=test_paired test_plots test_report",
    "tests > tests/paper": "test_study_chart test_suite",
    "tests > tests/cli": "test_demo",
    "tests > tests/reading": "test_picture=test_drawing",
    "tests/cli > tests/cli": "conftest test_mistakes test_output test_processes test_service",
    "tests/core > tests/core": (
        "fork requests=gateway_events test_controller test_controller_restart test_draws test_gateway test_gateway_restart "
        "test_journal test_mix test_pipeline test_router test_router_machine test_router_restart test_worker"
    ),
    "tests/core > tests/core/requests": "test_histogram test_ledger test_seconds test_terms test_recall test_redispatch test_retry",
    "tests/core > tests/core/routing": "test_lost_workers test_queue test_router_flow test_routing_table test_verdicts",
    "tests/core > tests/core/servers": "test_drift test_exclusions test_rollout test_servers test_transition",
    "tests/control > tests/control": "brute instances states test_compiled test_compiling test_recent=test_lru",
    "tests/control > tests/control/demand": "test_demand=test_estimators test_exceedance test_forecast",
    "tests/control > tests/control/formulation": "test_tail_model test_measured=test_drifted",
    "tests/control > tests/control/solver": "test_own_solver",
    "tests/control > tests/control/branch_and_price": "test_hull=test_route_pricing",
    "tests/control > tests/control/allocator": (
        "test_certificate test_exactness test_kept=test_cached_model test_ladder test_livelock test_plan_types test_pools "
        "test_reference test_switching test_switching_exactness test_wide=test_implicit_model"
    ),
    "tests/control > tests/control/explain": "test_prices",
    "tests/control > tests/control/policies": "test_adjusted=test_ppo test_policies test_proteus",
    "tests/control > tests/control/learned": "test_shipped_agents",
    "tests/control > tests/control/fast": "test_table",
    "tests/agents > tests/agents": "conftest",
    "tests/agents > tests/agents/train": "test_train=test_training test_forecast_train=test_forecaster",
    "tests/agents > tests/agents/evaluate": "test_evaluate=test_evaluation",
    "tests/env > tests/env": "conftest digest test_faults test_kernel test_pool_world test_steady test_world",
    "tests/env > tests/env/fluid": "test_fluid=test_dynamics",
    "tests/env > tests/env/gym": "test_cluster_env test_vector_env",
    "tests/traces > tests/traces": (
        "test_arrivals test_commands test_generate test_sketch test_sources test_stats test_trace"
    ),
    "tests/serving > tests/serving": "conftest driving gateway_process site",
    "tests/serving > tests/serving/process": (
        "test_child test_compile_time test_folder test_heartbeat test_launch test_node test_pool_plane "
        "test_restart_budget test_supervisor"
    ),
    "tests/serving > tests/serving/transport": "test_driver test_mailbox test_timers test_wire test_addresses",
    "tests/serving > tests/serving/gateway": (
        "test_client test_departures test_front=test_client_socket test_gateway_restart test_ledger_snapshot "
        "test_lost_gateway test_survey=test_state_query test_entrance=test_schema"
    ),
    "tests/serving > tests/serving/edge": "test_edge test_http test_http_gateway test_native_proxy test_oip test_readiness test_rpc test_zmtp",
    "tests/serving > tests/serving/engines": "test_cuda test_device test_emulated test_threaded",
    "tests/serving > tests/serving/observe": "test_dashboard test_logs test_meter test_metrics test_top test_tracing",
    "tests/serving > tests/serving/load": "test_replay",
    "tests/serving > tests/serving/profiling": "test_as_served test_neighbours=test_host_load",
    # These share fixtures with the real models of *reading*, which tests/serving/conftest.py has.
    "tests/serving/reading > tests/serving/reading": (
        "conftest test_adapters test_as_served_run test_models test_onnx_engine test_own_models test_poison test_profile "
        "test_providers test_scenes test_stored=test_model_repository test_tools"
    ),
}

# Folders of data that go along, so that `Path(__file__).parent / "data"` stays true.
DATA = {
    "loki_rl/control/data/quantiles.npz": "loki_rl/control/demand/data/quantiles.npz",
    "loki_rl/control/data/quantiles.md": "loki_rl/control/demand/data/quantiles.md",
    "loki_rl/control/data/agents": "loki_rl/control/learned/data/agents",
}

# One module becomes several: name of a definition -> module beside the one that it moves to ("" stays, None is dropped).
SPLITS: dict[str, dict[str, str | None]] = {
    "loki_rl/control/policies.py": {
        "PolicyOptions": "options",
        "Planner": "",
        "counted": "",
        "_somewhere": "",
        "Static": "static",
        "Hardware": "hardware",
        "Loki": "loki",
        "Exact": "exact",
        "Clairvoyant": "clairvoyant",
        "Policy": "named",
        "POLICIES": "named",
        "ALIKE": "named",
        "make_policy": "named",
        "_proteus": None,
        "_forecast": None,
        "_ppo": None,
    },
    "loki_rl/control/adjusted.py": {
        "Forecasting": "forecast",
        "Adjusting": "",
        "STALE_S": "",
        "FLOOR_S": "",
        "_estimated": "",
    },
}
SPLIT_DOCS = {
    "loki_rl/control/policies/planner.py": (
        '"""What policies ask the allocator with: the pipeline as it is known to be, the request, the reserve. Owns how a request\n'
        'is put together; decides nothing about demand."""'
    ),
    "loki_rl/control/policies/options.py": '"""What all policies may be told. Owns these options."""',
    "loki_rl/control/policies/static.py": '"""`static`: one plan, made for the expected demand and held."""',
    "loki_rl/control/policies/hardware.py": (
        '"""`hardware`: hardware scaling alone, with the most accurate variants that fit the SLO."""'
    ),
    "loki_rl/control/policies/loki.py": '"""`loki`: Loki as published, smoothed demand to the plain optimum."""',
    "loki_rl/control/policies/exact.py": (
        '"""`exact`: the switch-aware allocator on the demand that is worth having capacity for."""'
    ),
    "loki_rl/control/policies/clairvoyant.py": (
        '"""`clairvoyant`: as `exact`, with the demand that will really come, where a trace is replayed."""'
    ),
    "loki_rl/control/policies/named.py": (
        '"""Policies by name. Owns the list that users choose from and what a driver may ask of a policy; decides nothing."""'
    ),
    "loki_rl/control/policies/forecast.py": (
        '"""`forecast`: as `exact`, for the demand that a forecast of its quantiles says is worth having capacity for."""'
    ),
    "loki_rl/control/policies/ppo.py": (
        '"""`ppo`: as `forecast`, adjusted by a trained agent. Owns when the agent is believed; the plan is always the\n'
        'switch-aware allocator\'s."""'
    ),
}
# After the split: the list names the classes themselves, now that nothing below it imports it.
SPLIT_PATCHES = {
    "loki_rl/control/policies/named.py": [
        ('"proteus": _proteus', '"proteus": Proteus'),
        ('"forecast": _forecast', '"forecast": Forecasting'),
        ('"ppo": _ppo', '"ppo": Adjusting'),
        (
            "from __future__ import annotations\n",
            "from __future__ import annotations\n\n"
            "from loki_rl.control.adjusted import Adjusting, Forecasting\n"
            "from loki_rl.control.proteus import Proteus\n",
        ),
    ],
}

# Class -> new name, in its module and where it is imported from there.
CLASSES = {
    "serving/doorbell.py": {"Doorbell": "EventQueue"},
    "serving/alarm.py": {"Alarm": "DeadlineTimer"},
    "serving/lane.py": {"Lane": "SerialExecutor"},
    "serving/front.py": {"Front": "ClientSocket"},
    "serving/reception.py": {"Reception": "GatewayAdapter"},
    "serving/bridge.py": {"Bridge": "AsyncClient"},
    "serving/survey.py": {"Survey": "StateQuery"},
    "serving/neighbours.py": {"Neighbours": "HostLoad"},
    "loki_rl/control/kept.py": {"KeptProblem": "CachedModel"},
    "loki_rl/control/wide.py": {"WideProblem": "ImplicitModel"},
    "loki_rl/control/recent.py": {"Recent": "Lru"},
    "loki_rl/control/setting.py": {"Setting": "Prepared"},
    "loki_rl/control/joint.py": {"Joint": "MasterProblem"},
    "loki_rl/control/fleets.py": {"FleetSearch": "BranchAndPrice"},
    "loki_rl/control/reserve.py": {"Reserve": "CapacityTarget"},
    "loki_rl/core/floors.py": {"Floors": "AccuracyFloor"},
    "loki_rl/core/pullers.py": {"Pullers": "Credits"},
    "loki_rl/core/shares.py": {"Shares": "DeficitRoundRobin"},
    "loki_rl/core/flow.py": {"Flow": "TokenBuckets"},
    "loki_rl/core/machine.py": {"Machine": "ServerRecord"},
    "env/disturbed.py": {"Fate": "CrashSchedule", "Nobody": "DeadActor"},
    "env/world.py": {"Player": "ActorSlot"},
    "agents/contenders.py": {"Contender": "Method"},
    "agents/matched.py": {"Matched": "MatchedComparison"},
    "agents/shielded.py": {"Shielded": "GuardedAgent"},
}
# Methods, where the way they are called leaves no doubt: (file or None for all Python files, pattern, replacement).
METHODS = [
    ("serving/doorbell.py", r"\bdef ring\(", "def put("),
    ("serving/doorbell.py", r"may ring; one thread", "may put; one thread"),
    ("serving/doorbell.py", r"nothing rung later", "nothing put later"),
    (None, r"(?<=[a-z_])\.ring\(", ".put("),
    ("loki_rl/control/reserve.py", r"\bdef after\(", "def from_history("),
    ("loki_rl/control/reserve.py", r"\bdef beside\(", "def from_forecast("),
    ("loki_rl/control/reserve.py", r"\bdef knowing\(", "def from_future("),
    (None, r"\breserve\.after\(", "reserve.from_history("),
    (None, r"\breserve\.beside\(", "reserve.from_forecast("),
    (None, r"\breserve\.knowing\(", "reserve.from_future("),
]

# Identifiers (variables, attributes, keywords) in all Python files, where no file that has the old one has the new one.
VARIABLES = {
    "player": "slot",
    "players": "slots",
    "_alarm": "_timer",
    "alarm": "timer",
    "survey": "state_query",
    "_survey": "_state_query",
    "reception": "gateway_adapter",
    "_reception": "_gateway_adapter",
}

# Texts in one file that none of the rules above reaches: (old path, old text, new text).
PATCHES = [
    ("loki_rl/config.py", "(Path(__file__).parent / place)", "(Path(__file__).parents[1] / place)"),
    ("loki_rl/run_folder.py", "package = Path(__file__).parent\n", "package = Path(__file__).parents[1]\n"),
    ("loki_rl/run_folder.py", '"traces", "agents")', '"traces", "agents", "reading")'),
    (
        "tests/test_contracts.py",
        '    ("loki_rl/config.py", "import loki_rl.control.request", {BESIDE}, "loki_rl.config -> loki_rl.control.request"),\n',
        '    ("loki_rl/config.py", "import loki_rl.control.request", {BESIDE}, "loki_rl.config -> loki_rl.control.request"),\n'
        '    ("loki_rl/core/rollout.py", "import loki_rl.core.queue", {CORE_ROOMS}, "loki_rl.core.rollout -> loki_rl.core.queue"),\n'
        '    ("loki_rl/control/simplex.py", "import loki_rl.control.network", {CONTROL_ROOMS}, '
        '"loki_rl.control.simplex -> loki_rl.control.network"),\n'
        '    ("env/world.py", "import loki_rl.env.simulate", {TWIN_ROOMS}, "loki_rl.env.world -> loki_rl.env.simulate"),\n'
        '    ("serving/wire.py", "import loki_rl.serving.client", {PLANE_ROOMS}, '
        '"loki_rl.serving.wire -> loki_rl.serving.client"),\n'
        '    ("agents/rollouts.py", "import loki_rl.agents.train", {LEARNING_ROOMS}, '
        '"loki_rl.agents.rollouts -> loki_rl.agents.train"),\n',
    ),
    (
        "tests/test_contracts.py",
        'BESIDE = "config and telemetry stand beside the core"\n',
        'BESIDE = "config and telemetry stand beside the core"\n'
        'CORE_ROOMS = "Rooms of the core: routing > servers > requests"\n'
        'CONTROL_ROOMS = "Rooms of control: policies > demand > allocator > formulation > solver"\n'
        'TWIN_ROOMS = "Rooms of the twin: gym > fluid | simulate > disturbed > world"\n'
        'PLANE_ROOMS = "Rooms of the plane: edge > process > gateway > engines > transport"\n'
        'LEARNING_ROOMS = "Rooms of learning: train > evaluate"\n',
    ),
    (
        "docs/architecture.md",
        "a class with `decide(snapshot) -> Plan` in `control/policies.py`, and its name in `POLICIES`",
        "a file in `control/policies/` whose class has `decide(snapshot) -> Plan`, and its name in `POLICIES` of `named.py` there",
    ),
    (
        "docs/architecture.md",
        "`forecast` and `ppo` are `control/adjusted.py`; the agent in them is",
        "One file a policy; the agent in `ppo` is",
    ),
    (
        "tests/test_contracts.py",
        '{line.removesuffix(" BROKEN") for line in output.splitlines() if line.endswith(" BROKEN")}',
        '{line.partition(" BROKEN")[0] for line in output.splitlines() if " BROKEN" in line}',
    ),
    ("docs/architecture.md", '"fluid_windows: generated', '"fluid/windows: generated'),
    ("docs/architecture.md", "G: Front, Reception, Gateway", "G: ClientSocket, GatewayAdapter, Gateway"),
    ("docs/architecture.md", "(`serving/adapters/`)", "(`serving/engines/adapter.py`)"),
    ("pyproject.toml", 'extend-exclude = ["runs", "models"]', 'extend-exclude = ["models"]'),
]

ROOMS = {
    "loki_rl/core": (
        "Every decision: actors that are told events and answer with effects, and the words they share. A request goes from\n"
        "gateway.py to router.py and worker.py; controller.py moves servers from plan to plan. No clock, socket or chance here."
    ),
    "loki_rl/core/requests": (
        "A request while it is open and once it has ended: the items it falls into, their children, what is still missing, and the\n"
        "ledger that counts how requests end."
    ),
    "loki_rl/core/routing": (
        "The two kinds of router, by pull and by table, and what they work with: the queue, which drops late items, the credits and\n"
        "leases of workers, and the shares of variants. What both do alike is in router.py above."
    ),
    "loki_rl/core/servers": (
        "The servers of a cluster as the controller sees them: types, records, what may be loaded, how far service is from its\n"
        "profile, and the order in which they go over to another plan."
    ),
    "loki_rl/control": (
        "Everything between counted demand and a plan: estimates, the linear model, its solvers, the allocator and the policies\n"
        "that ask it. What many rooms need lies beside them: compiled loops and a cache."
    ),
    "loki_rl/control/demand": (
        "From requests counted per second to the demand that is worth having capacity for: estimators, forecasts with quantiles,\n"
        "and the price of capacity."
    ),
    "loki_rl/control/formulation": (
        "The allocation problem as mathematics: what is asked, latency models, accuracies, configurations, the flow network, and\n"
        "the linear model written down."
    ),
    "loki_rl/control/solver": (
        "What solves a model written down: HiGHS, and branch and bound of our own on a simplex with proofs. Knows no pipeline."
    ),
    "loki_rl/control/branch_and_price": (
        "The search for fleets too large to be written down: routes made as prices ask for them, and whole servers by branching."
    ),
    "loki_rl/control/allocator": (
        "From a request to a proven plan: hardware scaling, accuracy scaling, shedding, and the switch-aware objective. allocate.py\n"
        "is the way in."
    ),
    "loki_rl/control/explain": (
        "Plans looked at from outside: what limits them, what a little more of each resource is worth, and whether they keep what\n"
        "they promise."
    ),
    "loki_rl/control/policies": (
        "One file a policy: from what a controller observes to the demand that the allocator is asked to plan for. named.py lists\n"
        "them; a new policy is added there."
    ),
    "loki_rl/control/learned": (
        "A trained agent at work: what it sees, what it may do, and the agents that ship. Training is in loki_rl/agents."
    ),
    "loki_rl/control/fast": (
        "The allocator for training: a local search over servers per model, as compiled loops on arrays."
    ),
    "loki_rl/files": (
        "Files that users write or a profiler leaves: pipelines, profiles, pools. Reads and checks them; an error says what, where\n"
        "and what to do."
    ),
    "loki_rl/runs": (
        "One run and many: its options, how it is played in the twin or on a plane, and the folder that it leaves."
    ),
    "loki_rl/reports": (
        "What is told of runs: means, intervals, paired differences, tables, plots and the page that holds them."
    ),
    "loki_rl/cli": (
        "The command line: which commands there are, their flags, and what people see in the terminal. main.py is the way in."
    ),
    "loki_rl/paper": (
        "The evaluation of the Loki paper (HPDC'24) made again: its studies, their charts, and the command that runs them all."
    ),
    "loki_rl/reading": (
        "The application *reading*: its models and where they come from, the adapters around them, rendered scenes with known text,\n"
        "and how well they are read."
    ),
    "agents": "Learning: training in train/, comparison on windows never seen in evaluate/, and export to files without torch.",
    "agents/train": (
        "An episode as the learner sees it: the training loop, its critic, validation and checkpoints, and the\n"
        "forecaster's training."
    ),
    "agents/evaluate": (
        "How good methods are on windows that training never saw: tuned bases, guarded agents, equal terms, shifted worlds."
    ),
    "env/fluid": (
        "The fluid twin, in which agents are trained: queues, loads and swaps of many clusters at once, as compiled loops, and the\n"
        "windows of demand that episodes are played on."
    ),
    "env/gym": (
        "The twins as gymnasium environments: spaces, options, one cluster or many, and pictures of an episode. An episode begins\n"
        "in cluster_env.py."
    ),
    "serving": (
        "The plane: processes that carry out the core's effects over ZeroMQ. A request enters in edge/ or gateway/, travels by\n"
        "transport/ and is computed in engines/. plane.py says what a plane is made of, state.py what it tells of itself."
    ),
    "serving/process": (
        "The processes of a plane: how they are started, watched, restarted and stopped, and what each node is made of."
    ),
    "serving/transport": (
        "How messages travel and wake a node: the driver's loop, mailboxes, bytes between nodes and to clients, payloads,\n"
        "and timers."
    ),
    "serving/gateway": (
        "Between clients and the gateway's actor: both ends of a native connection, what may be sent, and the memory that outlives\n"
        "a crash."
    ),
    "serving/edge": (
        "Processes in front of the gateway: the Open Inference Protocol over HTTP and gRPC, and the proxy that watches native\n"
        "clients."
    ),
    "serving/engines": (
        "What executes models: the engine protocol, emulated and ONNX engines, devices, adapters, and the model repository."
    ),
    "serving/observe": "What people and tools see of a plane: logs, counts, Prometheus metrics and traces of requests.",
    "serving/load": "Open-loop load: replay of a trace over the native protocol or HTTP, and the client's own account of it.",
    "serving/profiling": (
        "What a profile comes from: models timed in isolation, measured on labelled data, and as a whole plane serves them."
    ),
    "serving/controlling": "The policy beside the controller's loop: chosen by name, asked in a thread, and its trouble in words.",
    "traces": "Demand: trace files and their formats, generators, statistics, and the one function that draws arrivals.",
}

CONTRACTS = """
[[tool.importlinter.contracts]]
name = "Layers: cli > agents > env | serving > control | traces > core"
type = "layers"
layers = [
    "loki_rl.cli",
    "loki_rl.paper | loki_rl.agents",
    "loki_rl.reports",
    "loki_rl.runs",
    "loki_rl.env | loki_rl.serving",
    "loki_rl.control | loki_rl.traces | loki_rl.files",
    "loki_rl.core",
]

[[tool.importlinter.contracts]]
name = "The core is pure: no clock, chance, socket, log or array library"
type = "forbidden"
source_modules = ["loki_rl.core"]
forbidden_modules = [
    "time", "datetime", "random", "secrets", "os", "io", "pathlib", "socket", "selectors", "threading", "asyncio",
    "subprocess", "multiprocessing", "logging", "numpy", "zmq", "pulp", "highspy", "onnxruntime", "yaml",
    "loki_rl.files", "loki_rl.runs",
]

[[tool.importlinter.contracts]]
name = "The twin needs no serving stack and no torch"
type = "forbidden"
source_modules = ["loki_rl.env"]
forbidden_modules = ["loki_rl.serving", "loki_rl.reading", "zmq", "onnxruntime", "torch", "uvicorn", "starlette"]

[[tool.importlinter.contracts]]
name = "The serving plane needs no twin and no learning stack"
type = "forbidden"
source_modules = ["loki_rl.serving", "loki_rl.reading"]
forbidden_modules = ["loki_rl.env", "loki_rl.agents", "gymnasium", "torch", "stable_baselines3", "sb3_contrib"]

[[tool.importlinter.contracts]]
name = "config and telemetry stand beside the core"
type = "forbidden"
source_modules = ["loki_rl.files", "loki_rl.runs.telemetry"]
forbidden_modules = [
    "loki_rl.env", "loki_rl.serving", "loki_rl.agents", "loki_rl.control", "loki_rl.traces", "loki_rl.runs.run", "loki_rl.cli",
]

[[tool.importlinter.contracts]]
name = "Rooms of the core: routing > servers > requests"
type = "layers"
layers = ["loki_rl.core.routing", "loki_rl.core.servers", "loki_rl.core.requests"]
# Everybody knows the options, and these name the types of servers.
ignore_imports = ["loki_rl.core.options -> loki_rl.core.servers.server_type"]

[[tool.importlinter.contracts]]
name = "Rooms of control: policies > demand > allocator > formulation > solver"
type = "layers"
layers = [
    "loki_rl.control.policies | loki_rl.control.explain",
    "loki_rl.control.learned",
    "loki_rl.control.demand | loki_rl.control.fast",
    "loki_rl.control.allocator",
    "loki_rl.control.branch_and_price",
    "loki_rl.control.formulation",
    "loki_rl.control.solver",
    "loki_rl.control.compiled | loki_rl.control.lru",
]

[[tool.importlinter.contracts]]
name = "Rooms of the twin: gym > fluid | simulate > disturbed > world"
type = "layers"
layers = [
    "loki_rl.env.gym",
    "loki_rl.env.fluid | loki_rl.env.simulate",
    "loki_rl.env.disturbed",
    "loki_rl.env.world",
]

[[tool.importlinter.contracts]]
name = "Rooms of the plane: edge > process > gateway > engines > transport"
type = "layers"
layers = [
    "loki_rl.serving.edge | loki_rl.serving.load | loki_rl.serving.profiling",
    "loki_rl.reading",
    "loki_rl.serving.process",
    "loki_rl.serving.gateway | loki_rl.serving.controlling",
    "loki_rl.serving.engines",
    "loki_rl.serving.plane",
    "loki_rl.serving.folder",
    "loki_rl.serving.observe",
    "loki_rl.serving.transport",
    "loki_rl.serving.state",
]

[[tool.importlinter.contracts]]
name = "Rooms of learning: train > evaluate"
type = "layers"
layers = [
    "loki_rl.agents.commands | loki_rl.agents.forecast_commands",
    "loki_rl.agents.export",
    "loki_rl.agents.train",
    "loki_rl.agents.evaluate",
]
"""
# Of the contracts that this takes the place of: if their text has changed since, the change is to be taken over by hand.
CONTRACTS_NOW = ("fab8b15d1d212ce2", "dd942960a4731c2c")

# ------------------------------------------------------------------------------------------------------------- machinery

warnings: list[str] = []


def warn(text: str) -> None:
    warnings.append(text)
    print(f"WARNING: {text}")


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


def tracked() -> list[str]:
    return [name for name in git("ls-files").splitlines() if not Path(name).is_symlink()]


def dotted(path: str) -> str:
    """The module that Python knows a file by."""
    parts = list(Path(path).with_suffix("").parts)
    if parts[0] in LINKED:
        parts.insert(0, "loki_rl")
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def placed(files: set[str]) -> dict[str, str]:
    """Old path -> new path of every module that is there and that the table knows."""
    moves: dict[str, str] = {}
    for line, modules in PLACES.items():
        source, target = line.split(" > ")
        for module in modules.split():
            old, _, new = module.partition("=")
            if f"{source}/{old}.py" in files:
                assert f"{source}/{old}.py" not in moves, f"{source}/{old}.py is placed twice"
                moves[f"{source}/{old}.py"] = f"{target}/{new or old}.py"
    clash = [one for one, count in Counter(moves.values()).items() if count > 1]
    assert not clash, f"two files want to be {clash}"
    return moves


def unplaced(files: set[str], moves: dict[str, str]) -> list[str]:
    """Python files of folders that the table speaks of and which it does not know."""
    folders = {line.split(" > ")[0] for line in PLACES}
    known = {"__init__.py"}
    return sorted(
        one
        for one in files
        if one.endswith(".py") and str(Path(one).parent) in folders and one not in moves and Path(one).name not in known
    )


class Names:
    """Old module -> new module, and what of its definitions goes elsewhere or is called otherwise."""

    def __init__(self, moves: dict[str, str], files: set[str]) -> None:
        self.modules = {dotted(old): dotted(new) for old, new in moves.items()}
        self.same = {dotted(one) for one in files if one.endswith(".py")} - set(self.modules)
        self.splits: dict[str, dict[str, str]] = {}
        for path, parts in SPLITS.items():
            if path not in moves:
                continue
            home = dotted(moves[path]).rsplit(".", 1)[0]
            self.splits[dotted(path)] = {name: f"{home}.{part}" for name, part in parts.items() if part}
        self.files = bare_names(moves)
        self.classes = {dotted(path): names for path, names in CLASSES.items() if path in moves}
        self.variables = free_variables(files)
        self.tops: dict[str, set[str]] = {}
        for path in files:
            if path.endswith(".py"):
                self.tops[dotted(path)] = top_names(ast.parse(Path(path).read_text(encoding="utf-8")))
        for module, names in self.classes.items():
            for name in [*names]:
                if name not in self.tops[module]:
                    warn(f"class {name} is not in {module} any more: not renamed")
                    del names[name]
                elif names[name] in self.tops[module]:
                    warn(f"{module} has a {names[name]} already: {name} keeps its name")
                    del names[name]

    def module(self, old: str, name: str = "") -> str:
        return self.splits.get(old, {}).get(name) or self.modules.get(old, old)

    def name(self, module: str, name: str) -> str:
        return self.classes.get(module, {}).get(name, name)

    def prose(self, text: str) -> str:
        """Classes between backticks, with what follows them there; methods that were renamed with these."""
        classes = {old: new for table in self.classes.values() for old, new in table.items()}
        word = re.compile(rf"(?<=`)({'|'.join(classes)})\b(?=[^`\n]*`)")
        for _ in range(2):
            text = word.sub(lambda found: classes[found[1]], text)
        text = re.sub(r"(?<=`)(\w+\.py)(?=`)", lambda found: self.files.get(found[1], found[1]), text)
        return re.sub(r"EventQueue\.ring\b", "EventQueue.put", text)

    def text(self, found: str) -> str:
        """`loki_rl.a.b.C.d` as it is called afterwards."""
        parts = found.split(".")
        for length in range(len(parts), 1, -1):
            module = ".".join(parts[:length])
            if module in self.modules:
                rest = parts[length:]
                new = self.module(module, rest[0] if rest else "")
                rest = [self.name(module, rest[0]), *rest[1:]] if rest else []
                return ".".join([new, *rest])
            if module in self.same:
                return found
        return found


def bare_names(moves: dict[str, str]) -> dict[str, str]:
    """File names without their folder -> new ones, where it is certain which file is meant; with the room where the new name
    alone is not."""
    count = Counter(Path(new).name for new in moves.values())
    found: dict[str, str] = {}
    for old, new in moves.items():
        base, after = Path(old).name, Path(new).name
        if base != after and base not in count and old not in SPLITS:
            found[base] = after if count[after] == 1 else f"{Path(new).parent.name}/{after}"
    return found


def free_variables(files: set[str]) -> dict[str, str]:
    """Of VARIABLES those whose new name says nothing else in any file that has the old one."""
    words = {path: set(re.findall(r"\w+", Path(path).read_text(encoding="utf-8"))) for path in files if path.endswith(".py")}
    found: dict[str, str] = {}
    for old, new in VARIABLES.items():
        taken = [path for path, there in words.items() if old in there and new in there]
        if taken:
            warn(f"identifier '{old}' keeps its name: '{new}' is used in {', '.join(taken)}")
        else:
            found[old] = new
    return found


def top_names(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in tree.body:
        found |= set(defined(node))
    return found


def defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, ast.Assign):
        return [one.id for target in node.targets for one in ast.walk(target) if isinstance(one, ast.Name)]
    return []


class Edits:
    """Replacements of spans of one text, none of which overlaps another."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.done: list[tuple[int, int, str]] = []
        self._lines = [0]
        for line in text.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def at(self, line: int, column: int, in_bytes: bool = True) -> int:
        start = self._lines[line - 1]
        if not in_bytes:
            return start + column
        end = self._lines[line] if line < len(self._lines) else len(self.text)
        return start + len(self.text[start:end].encode()[:column].decode())

    def put(self, start: int, end: int, new: str) -> None:
        if not any(start < b and a < end for a, b, _ in self.done):
            self.done.append((start, end, new))

    def covers(self, start: int) -> bool:
        return any(a <= start < b for a, b, _ in self.done)

    def result(self) -> str:
        text = self.text
        for start, end, new in sorted(self.done, reverse=True):
            text = text[:start] + new + text[end:]
        return text


QUOTED = re.compile(r"from (loki_rl(?:\.\w+)+) import (\w+(?:, \w+)+)")
DOTTED = re.compile(r"(?<![\w.])loki_rl(?:\.[A-Za-z_]\w*)+|(?<![\w.])tests(?:\.[a-z_]\w*)+")


def rewrite_python(path: str, text: str, names: Names) -> str:
    tree = ast.parse(text)
    edits = Edits(text)
    renamed: dict[str, str] = {}  # identifiers of this file -> new ones
    renamed |= names.variables | names.classes.get(dotted(path), {})
    modules: dict[str, tuple[str, str]] = {}  # name of an imported module -> (new name, old dotted)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("loki_rl", "tests"):
            start, end = edits.at(node.lineno, node.col_offset), edits.at(node.end_lineno or 0, node.end_col_offset or 0)
            new = import_statement(node, names, renamed, modules, tree, path)
            edits.put(start, end, new.replace("\n", "\n" + " " * node.col_offset))
    for found in QUOTED.finditer(text):
        if not edits.covers(found.start()) and len(new := quoted_import(found, names)) > 1:
            line = text[text.rfind("\n", 0, found.start()) + 1 : found.start()]
            between = f'\\n"\n{line}' if line.strip() == '"' and text[found.end() :].startswith("\\n") else "; "
            edits.put(found.start(), found.end(), between.join(new))
    for found in DOTTED.finditer(text):
        if not edits.covers(found.start()):
            edits.put(found.start(), found.end(), names.text(found.group()))
    rename_modules(tree, edits, modules, names, path)
    rename_tokens(text, edits, renamed, path)
    return edits.result()


def quoted_import(found: re.Match[str], names: Names) -> list[str]:
    """An import in a string, in as many statements as its names need now."""
    module, groups = found[1], defaultdict(list)
    for name in found[2].split(","):
        groups[names.module(module, name.strip())].append(names.name(module, name.strip()))
    return [f"from {where} import {', '.join(parts)}" for where, parts in sorted(groups.items())]


def import_statement(
    node: ast.ImportFrom,
    names: Names,
    renamed: dict[str, str],
    modules: dict[str, tuple[str, str]],
    tree: ast.Module,
    path: str,
) -> str:
    """The same import from where things are afterwards, in as many statements as that takes."""
    old = node.module or ""
    groups: dict[str, list[str]] = defaultdict(list)
    for alias in node.names:
        full = f"{old}.{alias.name}"
        suffix = f" as {alias.asname}" if alias.asname else ""
        if full in names.modules or full in names.same:
            package, base = names.module(full).rsplit(".", 1)
            if base != alias.name and not alias.asname:
                taken = base in bound(tree)
                suffix = f" as {alias.name}" if taken else ""
                if taken:
                    warn(f"{path}: '{base}' is bound already; imported as {alias.name}")
                else:
                    modules[alias.name] = (base, full)
            for was, new in names.classes.get(full, {}).items():
                renamed.setdefault(was, new)
            groups[package].append(base + suffix)
        else:
            new = names.name(old, alias.name)
            if new != alias.name and not alias.asname:
                renamed[alias.name] = new
            groups[names.module(old, alias.name)].append(new + suffix)
    return "\n".join(f"from {module} import {', '.join(parts)}" for module, parts in sorted(groups.items()))


def bound(tree: ast.Module) -> set[str]:
    """Every name that is bound anywhere in a file."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
    return found


def rename_modules(
    tree: ast.Module, edits: Edits, modules: dict[str, tuple[str, str]], names: Names, path: str
) -> None:
    """`old.thing` -> `new.thing` for modules that are imported as such. Where the file binds the old name too, only where the
    thing is the module's."""
    for old, (new, full) in modules.items():
        doubtful = any(
            (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == old)
            or (isinstance(node, ast.arg) and node.arg == old)
            for node in ast.walk(tree)
        )
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == old:
                if not doubtful or node.attr in names.tops[full]:
                    put_name(edits, node.value, new)
                else:
                    warn(f"{path}:{node.lineno}: '{old}.{node.attr}' left: not certain to be the module")
            elif isinstance(node, ast.Name) and node.id == old and isinstance(node.ctx, ast.Load) and not doubtful:
                put_name(edits, node, new)


def put_name(edits: Edits, node: ast.Name, new: str) -> None:
    edits.put(edits.at(node.lineno, node.col_offset), edits.at(node.end_lineno or 0, node.end_col_offset or 0), new)


def rename_tokens(text: str, edits: Edits, renamed: dict[str, str], path: str) -> None:
    if not renamed:
        return
    word = re.compile(r"\b(" + "|".join(renamed) + r")\b")
    # In prose only what cannot be an ordinary word.
    camel = re.compile(r"\b(" + "|".join(one for one in renamed if re.search(r"[a-z][A-Z]", one)) + r")\b|`(\w+)`")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        start = edits.at(*token.start, in_bytes=False)
        if token.type == tokenize.NAME and token.string in renamed:
            edits.put(start, start + len(token.string), renamed[token.string])
        elif token.type == tokenize.STRING and re.match(r"[rR]?[fF]", token.string):
            for field in re.finditer(r"\{[^{}]*\}", token.string):
                for found in word.finditer(field.group()):
                    at = start + field.start() + found.start()
                    edits.put(at, at + len(found.group()), renamed[found.group()])
        elif token.type in (tokenize.STRING, tokenize.COMMENT):
            for found in camel.finditer(token.string):
                name = found.group().strip("`")
                if name in renamed:
                    at = start + found.start() + found.group().index(name)
                    if not edits.covers(at):
                        edits.put(at, at + len(name), renamed[name])


class Paths:
    """Old path -> new path, as texts name them: with and without loki_rl/ and .py."""

    def __init__(self, moves: dict[str, str]) -> None:
        self.moves = {old.removesuffix(".py"): new.removesuffix(".py") for old, new in moves.items()}
        heads = "|".join(("loki_rl", "core", "control", "cli", *LINKED, "tests"))
        self.pattern = re.compile(rf"(?<![\w.\-/])(/?)((?:{heads})(?:/[a-z_]\w*)+)(\.py|\.npz|\.md)?(?![\w/])")

    def text(self, text: str) -> str:
        return self.pattern.sub(self._one, text)

    def _one(self, found: re.Match[str]) -> str:
        slash, path, suffix = found.group(1), found.group(2), found.group(3) or ""
        if slash and not path.startswith("loki_rl"):
            return found.group()
        for prefix, strip in (("", ""), ("loki_rl/", "loki_rl/")):
            key = prefix + path
            linked = key.removeprefix("loki_rl/") if key.startswith(tuple(f"loki_rl/{one}/" for one in LINKED)) else key
            if suffix in (".npz", ".md"):
                linked += suffix
            if linked in self.moves:
                new = self.moves[linked]
                if linked != key and not new.startswith("loki_rl/"):
                    new = "loki_rl/" + new
                new = new.removeprefix(strip) if strip and not linked.startswith("tests") else new
                return slash + new + (suffix if suffix not in (".npz", ".md") else "")
        return found.group()


def split_module(path: str, text: str, moves: dict[str, str]) -> dict[str, str]:
    """New path -> text of what a module is divided into; all imports are in all parts, and ruff takes out what is not used."""
    table = SPLITS[path]
    tree = ast.parse(text)
    lines = text.splitlines(keepends=True)
    home = moves[path]
    folder = str(Path(home).parent)
    head, parts, end = "", defaultdict(str), 0
    for node in tree.body:
        begin, stop = end, node.end_lineno or 0
        segment = "".join(lines[begin:stop])
        end = stop
        own = defined(node)
        if isinstance(node, ast.Import | ast.ImportFrom):
            head += segment
        elif not own:
            if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
                warn(f"{path}:{node.lineno}: a statement that defines nothing goes to {home}")
                parts[home] += segment
        else:
            target = table.get(own[0], "")
            if own[0] not in table:
                warn(f"{path}: {own[0]} is not in the table of the split; it goes to {home}")
            if target is not None:
                parts[f"{folder}/{target}.py" if target else home] += segment
    module, made = dotted(path), {}
    where = {name: f"{folder}/{part}.py" if part else home for name, part in table.items() if part is not None}
    for target, body in parts.items():
        used = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)}
        others = sorted(name for name, place in where.items() if place != target and name in used)
        more = f"from {module} import {', '.join(others)}\n" if others else ""
        made[target] = f"{SPLIT_DOCS[target]}\n{head.rstrip()}\n{more}\n\n{body.strip()}\n"
        for old, new in SPLIT_PATCHES.get(target, []):
            if old not in made[target]:
                warn(f"{target}: nothing to patch: {old.strip()[:60]}")
            made[target] = made[target].replace(old, new, 1)
    return made


def deeper(text: str, old: str, new: str) -> str:
    """Paths that start from __file__, for a test that lies deeper now."""
    by = len(Path(new).parts) - len(Path(old).parts)
    pattern = r"(Path\(__file__\)(?:\.resolve\(\))?\.parents\[)(\d+)(\])"
    return re.sub(pattern, lambda found: f"{found[1]}{int(found[2]) + by}{found[3]}", text)


def shorten(text: str) -> str:
    """Prose lines (docstrings and comments) that became too long go on in the next line."""
    lines = text.split("\n")
    inside = prose_lines(text)
    number = 0
    while number < len(lines):
        line = lines[number]
        if len(line) > WIDTH and (number + 1 in inside or line.lstrip().startswith("#")):
            mark = re.match(r"\s*(?:# )?", line)[0]  # type: ignore[index]
            cut = line.rfind(" ", 0, WIDTH + 1)
            if cut > len(mark):
                rest = line[cut + 1 :]
                lines[number] = line[:cut]
                follows = lines[number + 1] if number + 1 < len(lines) else ""
                same = re.match(r"\s*(?:# )?", follows)[0] == mark and follows.strip()  # type: ignore[index]
                goes_on = number + 2 in inside or follows.lstrip().startswith("# ")
                if same and goes_on and not re.match(r"\s*(?:# )?(?:[\w, ]+:|[-*`])", follows) and '"""' not in rest:
                    lines[number + 1] = f"{mark}{rest} {follows[len(mark):]}"
                else:
                    lines.insert(number + 1, mark + rest)
                    inside = {one + (one > number + 1) for one in inside} | {number + 2}
        number += 1
    return "\n".join(lines)


def split_mentions(text: str, moves: dict[str, str]) -> str:
    """`path` `name` of modules that are divided: the path is where the name goes."""
    for path, table in SPLITS.items():
        if path not in moves:
            continue
        short, folder = path.removeprefix("loki_rl/"), str(Path(moves[path]).parent).removeprefix("loki_rl/")
        for name, part in table.items():
            target = f"{folder}/{part or Path(moves[path]).stem}.py"
            text = re.sub(rf"`(loki_rl/)?{re.escape(short)}` `{name}\b", rf"`\g<1>{target}` `{name}", text)
    return text


def rewrap(before: str, text: str) -> str:
    """Lines of Markdown prose that became too long go on in the next line of their paragraph."""
    lines, old = text.split("\n"), set(before.split("\n"))
    number, code = 0, False
    while number < len(lines):
        line = lines[number]
        code ^= line.startswith("```")
        if len(line) > MARKDOWN_WIDTH and line not in old and not code and not line.startswith(("    ", "|", "#")):
            cut = line.rfind(" ", 0, MARKDOWN_WIDTH + 1)
            rest = line[cut + 1 :]
            lines[number] = line[:cut]
            follows = lines[number + 1] if number + 1 < len(lines) else ""
            indent = " " * len(re.match(r"\s*(?:[-*] |\d+\. )?", line)[0])  # type: ignore[index]
            if follows.strip() and not re.match(r"\s*(?:[-*] |[|#>]|```|\d+\. )|    ", follows):
                lines[number + 1] = f"{indent}{rest} {follows.lstrip()}"
            else:
                lines.insert(number + 1, indent + rest)
        number += 1
    return "\n".join(lines)


def prose_lines(text: str) -> set[int]:
    found: set[int] = set()
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                found |= set(range(first.lineno, (first.end_lineno or 0) + 1))
    return found


def rewrite_pyproject(text: str, moves: dict[str, str], names: Names) -> str:
    bases = {Path(old).name: Path(new).name for old, new in moves.items() if old.startswith("loki_rl/core/")}
    begin = text.index("exclude = [", text.index("hooks.mypyc]"))
    end = text.index("]", begin)
    excluded = re.sub(r'"(\w+\.py)"', lambda found: f'"{bases.get(found[1], found[1])}"', text[begin:end])
    text = text[:begin] + "\n".join([excluded.split("\n")[0], *sorted(excluded.split("\n")[1:-1]), ""]) + text[end:]
    begin = text.index('[[tool.importlinter.contracts]]\nname = "Layers')
    end = text.index("[tool.coverage")
    if (now := hashlib.sha256(text[begin:end].encode()).hexdigest()[:16]) not in CONTRACTS_NOW:
        warn(f"pyproject.toml: the import contracts are others than when this was written ({now}): merge them by hand")
    before, after = (DOTTED.sub(lambda one: names.text(one.group()), part) for part in (text[:begin], text[end:]))
    return before + CONTRACTS.lstrip("\n") + "\n" + after


def count_folders() -> dict[str, int]:
    counts: Counter[str] = Counter()
    for name in tracked():
        if name.endswith(".py") and not name.endswith("__init__.py") and not name.startswith("benchmarks"):
            counts[str(Path(name).parent)] += 1
    return dict(sorted(counts.items()))


def show_counts(before: dict[str, int], after: dict[str, int]) -> None:
    print("\nmodules beside __init__ per folder: before -> after")
    for folder in sorted({*before, *after}):
        was, now = before.get(folder, 0), after.get(folder, 0)
        over = "   OVER 15" if now > 15 else ""
        print(f"  {folder:36}{was:4} -> {now:3}{over}" if was != now else f"  {folder:36}{was:4}{over}")


def main() -> None:
    files = set(tracked())
    if "loki_rl/files/__init__.py" in files:
        sys.exit("this checkout has its rooms already")
    moves = placed(files)
    for one in unplaced(files, moves):
        warn(f"{one} is in no table and stays where it is")
    if "--check" in sys.argv:
        return
    if git("status", "--porcelain", "--untracked-files=no").strip():
        sys.exit("the checkout has changes of its own; commit them first")
    before = count_folders()
    names, data = Names(moves, files), data_moves(files)
    paths = Paths({**moves, **data})
    texts: dict[str, str] = {}
    for path in sorted(files):
        texts |= rewritten(path, moves, names, paths)
    move({**moves, **data}, files)
    for path, text in texts.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    make_rooms()
    git("add", "--all")
    tidy(texts)
    git("add", "--all")
    show_counts(before, count_folders())
    leftovers(moves)
    print(f"\n{len(warnings)} warnings")
    for one in warnings:
        print(f"  {one}")


def data_moves(files: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for old, new in DATA.items():
        for one in files:
            if one == old or one.startswith(old + "/"):
                found[one] = new + one.removeprefix(old)
    return found


def rewritten(path: str, moves: dict[str, str], names: Names, paths: Paths) -> dict[str, str]:
    """New path -> new text, of one file whose text changes or that is divided."""
    try:
        old = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return {}
    if Path(path).suffix in (".csv", ".json", ".pt", ".gz"):
        return {}
    text, new = old, moves.get(path, path)
    for where, was, becomes in PATCHES:
        if where == path:
            if was not in text:
                warn(f"{path}: nothing to patch: {was}")
            text = text.replace(was, becomes)
    if path.endswith(".py"):
        for where, pattern, becomes in METHODS:
            if where in (None, path):
                changed = re.sub(pattern, becomes, text)
                if where and changed == text:
                    warn(f"{path}: no {pattern} to rename")
                text = changed
        text = deeper(text, path, new)
        parts = split_module(path, text, moves) if path in SPLITS and path in moves else {new: text}
        made = {part: shorten(paths.text(rewrite_python(path, body, names))) for part, body in parts.items()}
    else:
        text = DOTTED.sub(lambda found: names.text(found.group()), text) if path != "pyproject.toml" else text
        text = paths.text(split_mentions(text, moves) if path.endswith(".md") else text)
        if path.endswith(".md"):
            text = rewrap(old, names.prose(text))
        made = {new: rewrite_pyproject(text, moves, names) if path == "pyproject.toml" else text}
    return made if len(made) > 1 or next(iter(made.values())) != old or new != path else {}


def move(moves: dict[str, str], files: set[str]) -> None:
    # A module may go where another one leaves, and a folder may be called as a module was.
    for old, new in moves.items():
        if old != new:
            git("mv", old, old + ".moving")
    for old, new in moves.items():
        if old != new:
            Path(new).parent.mkdir(parents=True, exist_ok=True)
            git("mv", old + ".moving", new)
    if "serving/adapters/__init__.py" in files:
        git("rm", "--quiet", "serving/adapters/__init__.py")


def make_rooms() -> None:
    for folder, text in ROOMS.items():
        file = Path(folder) / "__init__.py"
        if not Path(folder).is_dir():
            warn(f"no file went to {folder}")
        elif not file.exists() or not file.read_text(encoding="utf-8").strip():
            file.write_text(f'"""{text}"""\n', encoding="utf-8")


def tidy(texts: dict[str, str]) -> None:
    """Order of imports, and what is not used where a module was divided; the form of what was written."""
    ruff = str(Path(sys.executable).with_name("ruff"))
    divided = [one for one in SPLIT_DOCS if Path(one).exists()]
    subprocess.run([ruff, "check", "--quiet", "--fix", "--select", "F401,I", *divided], check=False)
    subprocess.run([ruff, "check", "--quiet", "--fix", "--select", "I", "."], check=False)
    written = [one for one in texts if one.endswith(".py")]
    subprocess.run([ruff, "format", "--quiet", *written], check=False)
    subprocess.run([ruff, "check", "."], check=False)


def leftovers(moves: dict[str, str]) -> None:
    """Old words that are still somewhere: to be looked at by a person."""
    gone = {Path(old).stem for old in moves} - {Path(new).stem for new in [*moves.values(), *tracked()]}
    files = rf"(^|[^a-z_/])({'|'.join(sorted(gone))})\.py\b"
    classes = {old for table in CLASSES.values() for old in table if re.search("[a-z][A-Z]", old)}
    for pattern in (r"serving[./]adapters", files, rf"\b({'|'.join(classes)})\b"):
        found = subprocess.run(["git", "grep", "-nE", pattern], capture_output=True, text=True, check=False).stdout
        if found:
            warn(f"old names are left:\n{found}")


if __name__ == "__main__":
    main()
