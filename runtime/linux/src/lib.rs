//! The fabric's port to Linux.
