//! What the models are worth: with any step left out, one of them must fail.

use ipiq_fabric::model_check::Mutants;

const MUTANTS: Mutants = Mutants { crate_dir: env!("CARGO_MANIFEST_DIR"), killed_by: KILLED_BY };

const KILLED_BY: &[(&str, &str)] = &[
    ("aborted-no-acquire", "word::an_abort_seen_by_a_poll_brings_what_led_to_it"),
    ("wait-no-acquire", WAIT),
    ("wait-no-release", WAIT),
    ("wait-in-two-steps", WAIT),
    ("abort-no-acquire", WAIT),
    ("abort-no-release", WAIT),
    ("abort-counts-later", ABORT),
    ("abort-counts-after-the-finish", ABORT),
    ("release-no-acquire", TWO),
    ("release-no-release", TWO),
    ("notify-looks-first", WAKES),
    ("notify-no-release", WAKES),
    ("take-notified-no-acquire", WAKES),
    ("finish-load-no-acquire", "word::a_task_that_never_waited_ends_after_every_use_of_it"),
    ("finish-no-acquire", "word::a_task_that_has_waited_ends_after_every_use_of_it"),
    ("finish-no-release", TWO),
    ("finish-before-own", "word::a_reference_cloned_woken_and_dropped_around_the_finish_keeps_task_and_home"),
    ("finish-keeps-late", TWO),
    ("finish-forgets-nobody", TWO),
    ("probe-claim-relaxed", ASKERS),
    ("probe-ask-relaxed", ANSWERS),
    ("probe-take-relaxed", ANSWERS),
    ("probe-release-relaxed", ASKERS),
    ("probe-abandon-idle", ASKERS),
    ("probe-answer-relaxed", ANSWERS),
    ("probe-done-relaxed", ANSWERS),
    ("probe-done-store", ANSWERS),
    ("probe-abandoned-relaxed", ASKERS),
];

const ANSWERS: &str = "probe::an_asker_reads_whole_answers_or_none_however_often_it_asks";
const ASKERS: &str = "probe::askers_in_turn_and_a_late_answer_do_not_meet";

const WAIT: &str = "word::an_abort_around_the_first_wait_is_seen_before_it_or_wakes";
const ABORT: &str = "word::aborts_around_the_finish_keep_the_home_or_leave_it_alone";
const WAKES: &str = "word::wake_ups_that_travel_as_one_bring_what_each_is_for";
const TWO: &str = "word::the_last_of_two_references_dropped_elsewhere_gives_up_what_was_kept";

#[test]
fn every_mutant_makes_its_model_fail() {
    MUTANTS.assert_killed();
}

#[test]
fn the_mutants_in_the_code_are_those_in_the_list() {
    MUTANTS.assert_complete();
}
