//! mTLS between our own processes.
