"""The twins as gymnasium environments: spaces, options, one cluster or many, and pictures of an episode. An episode begins
in cluster_env.py."""
