//! Length-prefixed JSON frames.
