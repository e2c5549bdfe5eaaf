//! The chat engine: send, log, projections, sessions.
