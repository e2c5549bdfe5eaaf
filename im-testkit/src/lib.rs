//! Conformance suite, fault wrappers, history checker and simulation for chat backends.
