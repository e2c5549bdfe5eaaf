//! Wire types of the chat protocol im.v1.json.
