"""What a run did, as rows: sifted from the calls of its actors, in the plane and in the twin alike, and kept in one file."""
