//! Every part of the chat engine on one SQLite file.
