//! Layer norm of rows in place.
