//! What the models are worth: with any step left out, one of them must fail.

use crate::model_check::Mutants;

const MUTANTS: Mutants = Mutants { crate_dir: env!("CARGO_MANIFEST_DIR"), killed_by: KILLED_BY };

const KILLED_BY: &[(&str, &str)] = &[
    ("ring-stamp-relaxed", RING),
    ("ring-stamp-first", RING),
    ("ring-publish-relaxed", RING),
    ("ring-read-early", RING),
    ("ring-read-relaxed", RING),
    ("ring-moved-relaxed", RING),
    ("ring-executed-early", EXECUTED),
    ("ring-executed-relaxed", EXECUTED),
    ("ring-finished-relaxed", EXECUTED),
    ("doorbell-no-light-fence", SYMMETRIC),
    ("doorbell-no-light-fence", ASYMMETRIC),
    ("doorbell-no-heavy-fence", SYMMETRIC),
    ("doorbell-no-heavy-fence", ASYMMETRIC),
    ("doorbell-refusal-ignored", "doorbell::a_target_whose_heavy_fence_is_refused_stays_awake_and_gets_its_message"),
    ("doorbell-no-recheck", SYMMETRIC),
    ("doorbell-recheck-pending-only", SYMMETRIC),
    ("doorbell-no-kick", SYMMETRIC),
    ("doorbell-two-kicks", "doorbell::two_senders_kick_a_sleeping_target_once"),
    ("doorbell-no-foreign-fence", "doorbell::a_target_sleeps_through_no_message_of_a_foreign_thread"),
    ("doorbell-leave-no-fence", "doorbell::a_foreign_message_to_a_core_that_leaves_is_dropped_with_it"),
    ("doorbell-departure-uncounted", LEAVING),
    ("doorbell-departure-no-kick", LEAVING),
    ("doorbell-lists-given-up", LISTED),
    ("doorbell-list-before-ring", LISTED),
    ("overflow-no-wanted-fence+doorbell-gone-relaxed", LEFT),
    ("overflow-no-order", "overflow::a_later_send_overtakes_no_listed_message"),
    ("overflow-no-wanted", SPACE),
    ("overflow-no-wanted-fence", SPACE),
    ("overflow-no-recheck", SPACE),
    ("overflow-no-kick", SPACE),
    ("overflow-nested-hides-claimed", "overflow::two_cores_inside_each_others_messages_drain_each_other"),
    ("synchronize-nested-early", "synchronize::everything_sent_has_finished_also_what_drains_in_the_middle"),
    ("synchronize-departure-ignored", "synchronize::a_core_that_leaves_is_not_waited_for"),
    ("admission-no-settle", FORMER_LIFE),
    ("admission-no-trustee-wait", TRUSTEE),
    ("admission-no-fence", TRUSTEE),
    ("trustee-uncounted", TRUSTEE),
    ("trustee-no-fence", TRUSTEE),
    ("trustee-no-look", TRUSTEE),
    ("call-no-wake", "call::a_call_brings_its_value_to_a_caller_that_sleeps"),
    ("call-free-early", DROPPED),
    ("call-abandon-forgotten", DROPPED),
    ("shootdown-request-relaxed", TWO_TO_ONE),
    ("shootdown-take-relaxed", TWO_TO_ONE),
    ("shootdown-generation-zero", ONE),
    ("shootdown-wait-alone", ONE),
    ("shootdown-slot-relaxed", ONE),
    ("shootdown-late-is-early", ONE),
    ("shootdown-ask-first", ASLEEP),
    ("shootdown-count-relaxed", ASLEEP),
    ("shootdown-land-by-slots", ASLEEP),
    ("shootdown-no-wake", ASLEEP),
    ("shootdown-wait-for-gone", TARGET_LEAVES),
    ("shootdown-gone-not-counted", TARGET_LEAVES),
    ("shootdown-leftover-dropped", OUTLIVES),
    ("shootdown-leftover-kept", OUTLIVES),
    ("shootdown-leftover-twice", "shootdown::two_that_leave_as_the_last_free_once_what_one_of_them_left_behind"),
    ("shootdown-prepare-late", REPLICA),
    ("shootdown-count-first", ASLEEP),
    ("shootdown-counted-relaxed", ASLEEP),
    ("shootdown-acknowledge-relaxed", ONE),
    ("shootdown-gone-read-late", "shootdown::an_initiator_that_spins_does_not_wait_for_a_target_that_leaves"),
    ("replica-in-drains", REPLICA),
    ("replica-any-version", "shootdown::concurrent_updates_end_with_the_later_value_everywhere"),
    ("call-not-taken-back", "call::a_call_to_a_core_that_leaves_ends_with_its_value_or_with_gone"),
    ("cpusync-no-turn-fence", TURNS),
    ("cpusync-turn-relaxed", TURNS),
    ("cpusync-leave-with-lead", "cpusync::a_core_that_leaves_while_it_waits_for_its_turn_takes_no_turn_with_it"),
    ("cpusync-no-second-look", LATE),
    ("cpusync-free-relaxed", TURNS),
    ("cpusync-second-look-unfenced", LATE),
    ("cpusync-set-unfenced", LATE),
    ("cpusync-look-relaxed", "cpusync::who_was_stopped_and_let_go_sees_what_the_body_wrote"),
    ("cpusync-answer-unread", PHASES),
    ("cpusync-weak-release-relaxed", WEAK),
    ("cpusync-weak-acknowledge-relaxed", WEAK),
    ("cpusync-order-relaxed", PHASES),
    ("cpusync-answer-relaxed", PHASES),
    ("cpusync-answer-early", PHASES),
    ("cpusync-taken-unlooked", "cpusync::a_stop_that_asks_while_the_last_ones_bit_is_taken_is_seen"),
    ("cpusync-wait-for-gone", "cpusync::a_core_that_leaves_holds_up_no_stop"),
    ("cpusync-left-unheard", "cpusync::the_panic_of_a_core_that_leaves_right_after_its_function_reaches_the_lead"),
    ("cpusync-asked-unheard", "cpusync::the_panic_of_a_core_that_leaves_before_it_is_asked_reaches_the_lead"),
    ("cpusync-one-round", "cpusync::a_stop_that_drains_has_run_what_was_sent_before"),
    ("cpusync-handlers-uncounted", "cpusync::a_stop_that_drains_has_run_what_a_handler_sent"),
    ("cpusync-waits-twice", "cpusync::who_looks_again_while_the_lead_is_on_its_way_gets_it_once"),
    ("cpusync-weak-lead-stays", "cpusync::two_weak_leads_hold_each_other_and_both_come_through"),
    ("handlers-look-first", TRIGGERS),
    ("handlers-trigger-relaxed", TRIGGERS),
    ("handlers-no-ask", TRIGGERS),
    ("handlers-take-relaxed", TRIGGERS),
    (
        "handlers-foreign-uncounted",
        "handlers::a_foreign_trigger_that_races_with_unregistering_is_refused_or_run_before_its_end",
    ),
    ("handlers-one-round", UNREGISTER),
    ("handlers-clear-first", UNREGISTER),
    ("handlers-pass-early", RUNNING),
    ("handlers-nested-pass", RUNNING),
    ("handlers-no-reask", RUNNING),
    ("handlers-one-round+handlers-pass-relaxed", RUNNING),
    ("handlers-pass-no-fence", AWAITED),
    ("handlers-pass-no-wake", AWAITED),
    ("handlers-leave-no-wake", "handlers::who_awaits_an_unregistration_is_woken_when_the_core_leaves"),
    ("handlers-orphans-kept", GIVEN_UP),
    ("handlers-orphan-no-fence", GIVEN_UP),
    ("handlers-orphan-no-recheck", GIVEN_UP),
    ("handlers-live-kept", "handlers::a_handler_that_nobody_unregisters_is_freed_by_the_last_core_that_leaves"),
    ("handlers-put-relaxed", MAILBOX),
    ("handlers-take-out-relaxed", MAILBOX),
    ("handlers-tally-relaxed", MAILBOX),
    ("handlers-answer-early", MAILBOX),
    ("handlers-answer-relaxed", MAILBOX),
    ("handlers-answer-no-wake", "handlers::who_awaits_a_function_of_the_mailbox_is_woken"),
    ("handlers-full-no-serve", "handlers::two_cores_with_full_mailboxes_that_wait_for_each_other_both_go_on"),
    ("handlers-space-no-fence", SPACE_IN_MAILBOX),
    ("handlers-space-no-wake", SPACE_IN_MAILBOX),
    ("handlers-no-withdraw", LEAVING_MAILBOX),
    ("handlers-leave-no-sweep", LEAVING_MAILBOX),
    ("handlers-register-no-fence", "handlers::a_handler_registered_while_the_last_core_leaves_is_unregistered"),
    ("handlers-ring-look-first", RINGS),
    ("handlers-ring-relaxed", RINGS),
    ("handlers-bells-relaxed", "handlers::two_bells_that_share_a_bit_are_both_heard"),
    ("handlers-bell-no-wake", RINGS),
    ("handlers-notified-plain", RINGS),
    ("handlers-notified-relaxed", RINGS),
    ("urgent-uncounted", FREED),
    ("urgent-set-look-first", INTERRUPTED),
    ("urgent-set-relaxed", TWO_TRIGGERS),
    ("urgent-no-ask", "urgent::a_core_that_sleeps_is_woken_for_a_trigger"),
    ("doorbell-no-foreign-fence", INTERRUPTED),
    ("urgent-refusal-kept", "urgent::a_refused_interrupt_does_not_stand_in_the_way_of_the_next"),
    ("urgent-closed-ignored", CRITICAL),
    ("urgent-missed-unset", CRITICAL),
    ("urgent-look-no-reask", "urgent::a_look_in_a_critical_section_leaves_the_trigger_to_a_later_one"),
    ("urgent-round-late", FREED),
    ("urgent-clear-late", INTERRUPTED),
    ("urgent-take-no-acquire", TWO_TRIGGERS),
    ("urgent-take-no-release", FREED),
    ("urgent-round-open", "urgent::handlers_do_not_interrupt_each_other"),
    ("urgent-round-relaxed", FREED),
    ("urgent-open-no-check", CRITICAL),
    ("urgent-check-first", CRITICAL),
    ("urgent-free-pending", FREED),
    ("urgent-free-running", FREED),
    ("urgent-accept-no-look", INTERRUPTED),
    ("urgent-rest-forgotten", CRITICAL),
    ("urgent-register-no-fence", REGISTERED_LATE),
    ("urgent-register-kept", REGISTERED_LATE),
    ("urgent-wait-for-look", ENDS_BY_INTERRUPT),
    ("urgent-clear-relaxed", ENDS_BY_INTERRUPT),
    ("urgent-wait-unasked", ENDS_BY_LOOK),
    ("urgent-look-no-wake", ENDS_BY_LOOK),
    ("urgent-leave-no-wake", "urgent::who_awaits_the_end_is_woken_by_a_core_that_leaves"),
    ("doorbell-wake-no-fence", "doorbell::a_core_that_wakes_sees_the_watcher_asleep_or_is_seen_by_it"),
    ("preemptible-no-fence", SECTION),
    ("preemptible-no-look", SECTION),
    ("preemptible-no-interrupt", SECTION),
    ("preemptible-no-settle", SECTION_ENDS),
    ("preemptible-late", SECTION_ENDS),
    ("preemptible-acknowledge-first", OVERTAKES),
    ("preemptible-one-queue", OVERTAKES),
    ("freeze-outside", FROZEN),
    ("freeze-frozen-relaxed", FROZEN),
    ("freeze-hold-relaxed", FROZEN),
    ("freeze-unheld", HASTY),
    ("freeze-leaves", FROZEN),
    ("freeze-thaw-stored", HASTY),
    ("freeze-let-go-relaxed", FROZEN),
    ("freeze-wait-relaxed", FROZEN),
    ("freeze-kept", FROZEN),
    ("urgent-call-push-relaxed", TWO_CALLERS),
    ("urgent-call-no-ask", TWO_TO_LEAVER),
    ("urgent-call-take-relaxed", TWO_CALLERS),
    ("urgent-call-dropped-runs", CANCELLED),
    ("urgent-call-home-relaxed", "urgent_call::two_answers_come_home_whole_whichever_tells_of_them"),
    ("urgent-call-no-answer", CALLED),
    ("urgent-call-leave-kept", LEAVING_CALL),
    ("urgent-call-gone-kept", LEAVING_CALL),
    ("urgent-foreign-home-relaxed", FOREIGN),
    ("urgent-foreign-wait-for-look", FOREIGN),
    ("urgent-foreign-kept", "urgent_call::a_foreign_call_that_is_dropped_runs_only_if_the_drop_says_so"),
    ("urgent-foreign-sent-home", FOREIGN_LEFT),
    ("urgent-call-last-kept", "urgent_call::what_two_cores_that_leave_have_called_on_each_other_is_freed"),
];

const RING: &str = "ring::messages_arrive_in_order_and_once_while_slots_are_reused_and_the_index_wraps";
const EXECUTED: &str = "ring::who_sees_a_sequence_executed_sees_what_its_function_wrote";
const SYMMETRIC: &str = "doorbell::a_target_sleeps_through_no_message_with_symmetric_fences";
const ASYMMETRIC: &str = "doorbell::a_target_sleeps_through_no_message_with_asymmetric_fences";
const LISTED: &str = "doorbell::what_a_core_that_leaves_had_listed_arrives_in_order_at_one_that_sleeps";
const LEAVING: &str = "doorbell::a_message_to_a_core_that_leaves_is_delivered_or_taken_back_once";
const LEFT: &str = "doorbell::who_sees_that_a_core_has_left_sees_what_its_messages_wrote";
const SPACE: &str = "overflow::a_source_that_sleeps_for_space_is_kicked_with_symmetric_fences";
const LATE: &str = "cpusync::a_latecomer_runs_no_job_that_is_over";
const WEAK: &str = "cpusync::a_weak_stop_sees_what_its_functions_wrote";
const TURNS: &str = "cpusync::turns_exclude_each_other_and_none_is_slept_through";
const PHASES: &str = "cpusync::each_phase_of_a_stop_sees_what_the_one_before_wrote";
const ONE: &str = "shootdown::a_target_that_sleeps_executes_each_request_once_while_generations_wrap";
const ASLEEP: &str = "shootdown::an_initiator_that_sleeps_is_woken_by_the_last_acknowledgement";
const TWO_TO_ONE: &str = "shootdown::a_target_that_was_asked_by_one_initiator_finds_the_request_of_another_whole";
const TARGET_LEAVES: &str = "shootdown::an_initiator_that_sleeps_does_not_wait_for_a_target_that_leaves";
const OUTLIVES: &str = "shootdown::an_operation_outlives_an_initiator_that_leaves";
const REPLICA: &str =
    "shootdown::when_an_update_is_done_nobody_reads_the_old_value_not_even_in_a_read_with_a_drain_in_it";
const TRIGGERS: &str = "handlers::every_trigger_is_followed_by_a_run_that_sees_what_it_tells_of";
const UNREGISTER: &str = "handlers::a_trigger_that_races_with_unregistering_is_refused_or_run_before_its_end";
const RUNNING: &str = "handlers::unregistering_waits_for_a_handler_that_drains_below_itself";
const AWAITED: &str = "handlers::who_awaits_an_unregistration_is_woken_at_its_end";
const GIVEN_UP: &str = "handlers::an_unregistration_that_is_given_up_while_the_last_core_leaves_is_ended";
const MAILBOX: &str = "handlers::a_function_of_the_mailbox_sees_its_senders_writes_and_is_seen";
const LEAVING_MAILBOX: &str = "handlers::a_message_to_a_core_that_leaves_is_run_or_answered_for";
const SPACE_IN_MAILBOX: &str = "handlers::who_awaits_a_place_in_a_full_mailbox_is_woken";
const RINGS: &str = "handlers::every_ring_is_followed_by_a_notification_that_sees_what_it_tells_of";
const INTERRUPTED: &str = "urgent::every_trigger_reaches_a_core_that_never_looks";
const TWO_TRIGGERS: &str = "urgent::triggers_of_two_threads_are_seen_with_what_they_tell_of";
const CRITICAL: &str = "urgent::a_critical_section_is_not_interrupted_and_its_end_serves_what_came";
const ENDS_BY_INTERRUPT: &str = "urgent::who_awaits_the_end_polls_until_an_interrupt_has_brought_it";
const ENDS_BY_LOOK: &str = "urgent::who_awaits_the_end_is_woken_by_a_core_that_looks_by_itself";
const REGISTERED_LATE: &str = "urgent::a_function_registered_while_the_last_core_leaves_is_dropped";
const FREED: &str = "urgent::an_unregistered_function_is_dropped_after_its_last_run";
const SECTION: &str = "preemptible::an_update_ends_while_a_section_goes_on";
const OVERTAKES: &str = "preemptible::a_prompt_operation_overtakes_one_that_waits_for_the_end_of_a_section";
const HASTY: &str = "freeze::who_has_waited_long_enough_goes_on_or_is_held";
const FROZEN: &str = "freeze::what_a_stop_sees_stands_still_whenever_a_section_begins_and_ends";
const SECTION_ENDS: &str = "preemptible::when_an_update_is_done_nobody_reads_the_old_value_whenever_a_section_ends";
const CALLED: &str = "urgent_call::a_call_runs_in_the_middle_of_a_poll_and_brings_its_value_to_a_caller_that_sleeps";
const TWO_CALLERS: &str = "urgent_call::calls_of_two_callers_arrive_whole_whoever_interrupts";
const TWO_TO_LEAVER: &str = "urgent_call::calls_of_two_callers_to_a_core_that_leaves_both_end";
const CANCELLED: &str = "urgent_call::a_call_that_is_dropped_runs_only_if_the_drop_says_so_and_is_freed_once";
const LEAVING_CALL: &str = "urgent_call::a_call_to_a_core_that_leaves_ends_run_or_not";
const FOREIGN: &str = "urgent_call::a_foreign_call_ends_while_the_poll_goes_on";
const FOREIGN_LEFT: &str = "urgent_call::a_foreign_call_to_a_core_that_leaves_ends_run_or_not_and_is_freed";
const FORMER_LIFE: &str =
    "admission::what_was_sent_to_the_former_life_does_not_reach_the_next_and_what_is_sent_to_it_does";
const TRUSTEE: &str = "admission::a_message_of_a_thread_is_run_by_the_next_life_or_dropped_and_takes_no_other_with_it";
const DROPPED: &str = "call::a_call_dropped_at_any_time_disturbs_no_later_one_and_leaks_nothing";

#[test]
fn every_mutant_makes_its_model_fail() {
    MUTANTS.assert_killed();
}

#[test]
fn of_two_mutants_at_once_the_first_alone_passes() {
    MUTANTS.assert_pairs_needed();
}

#[test]
fn the_mutants_in_the_code_are_those_in_the_list() {
    MUTANTS.assert_complete();
}
