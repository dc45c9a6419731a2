"""The twins as gymnasium environments: spaces, options, one cluster or many. An episode begins in cluster_env.py."""
