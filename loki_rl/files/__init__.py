"""Files that users write or a profiler leaves: pipelines, profiles, pools. Reads and checks them; an error says what, where
and what to do."""
