//! Attention of one sequence to itself or to another one, head by head: scores of a few rows lie in cache as the panel
//! that the product with the values reads, and are never stored as a whole.
