"""Files that users write or a profiler leaves: pipelines, profiles, pools."""
