//! Message types of the signaling protocol.
