"""Importing this package registers the environments with gymnasium; it owns their ids."""

from gymnasium.envs.registration import register, registry

IDS = {"LokiRL/Cluster-v1": "ClusterEnv", "LokiRL/OneTask-v1": "OneTaskEnv"}


def register_envs() -> None:
    """Make the ids known; a second call changes nothing."""
    for name, entry in IDS.items():
        if name not in registry:
            vector = entry.replace("Env", "VectorEnv")
            register(
                id=name,
                entry_point=f"loki_rl.env.gym.cluster_env:{entry}",
                vector_entry_point=f"loki_rl.env.gym.vector_env:{vector}",
                order_enforce=True,
            )


register_envs()
