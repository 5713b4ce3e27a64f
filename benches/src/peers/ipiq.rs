//! ipiq itself.
