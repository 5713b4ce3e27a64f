//! The word of a task, and the cell of a probe, under the model checker: every interleaving and every stale value that the memory model allows, up to a bound of
//! preemptions.
//!
//! Run with `--cfg loom`. `IPIQ_MUTANT=name` leaves a step out; [`mutants`] tells which model must fail then.

mod mutants;
mod probe;
mod word;
