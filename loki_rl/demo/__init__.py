"""The demo: real models (part A) and emulated servers (part B) meet a flash crowd, in plane and twin."""
