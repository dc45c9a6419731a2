"""One run and many: its options, how it is played in the twin or on a plane, and the folder that it leaves."""
