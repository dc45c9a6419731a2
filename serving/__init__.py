"""The plane: processes that carry out the core's effects over ZeroMQ. A request enters in edge/ or gateway/, travels by
transport/ and is computed in engines/. plane.py says what a plane is made of, state.py what it tells of itself."""
