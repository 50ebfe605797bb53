//! The suite: what it is run on, and what it says.
#![allow(unreachable_pub, reason = "modules of a test are nobody's")]

pub mod accepting;
pub mod again;
pub mod arrivals;
pub mod bench;
pub mod embedded;
pub mod expiry;
pub mod known;
pub mod letters;
pub mod listing;
pub mod names;
pub mod reading;
#[cfg(feature = "redis")]
pub mod redis;
pub mod reuse;
pub mod room;
pub mod settling;
pub mod topics;
pub mod tracking;
pub mod uploads;

/// No test takes longer, on a slow machine either.
pub const DEADLINE: std::time::Duration = std::time::Duration::from_secs(180);

/// Makes tests of functions of a bench.
macro_rules! tests_on {
    ($bench:ty; $($module:ident: $($name:ident)*;)*) => {
        $(mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let test = async {
                    let bench = <$bench as crate::Bench>::new().await;
                    crate::suite::$module::$name(&bench).await;
                };
                tokio::time::timeout(crate::suite::DEADLINE, test).await.expect("nothing hangs");
            })*
        })*
    };
}

/// All tests of the suite on an engine, in a module of its name.
macro_rules! engine_suite {
    ($engine:ident, $bench:ty) => {
        mod $engine {
            tests_on! { $bench;
                accepting:
                    accepted_messages_of_all_sizes_are_pending_after_reopening
                    a_newer_message_supersedes_a_pending_one_with_its_id
                    pending_messages_come_in_the_order_of_acceptance_and_in_pages
                    many_at_once_are_accepted_in_their_order_and_the_last_of_an_id_wins
                    the_last_of_many_under_an_id_wins_whatever_their_sizes
                    many_messages_survive_every_end
                    what_becomes_visible_is_told
                    callers_at_the_same_time_get_places_of_their_own
                    a_closed_store_takes_nothing;
                again:
                    the_same_key_is_the_same_acceptance_after_delivery_and_after_every_end
                    two_tries_at_the_same_time_are_one_acceptance
                    a_key_of_another_message_is_refused_and_says_why
                    a_refused_send_leaves_no_memory_of_its_key
                    uploads_and_many_at_once_have_keys_too
                    with_reject_a_key_counts_before_the_bytes_are_compared
                    with_reject_every_key_of_a_held_message_names_it_after_its_delivery_and_after_every_end
                    without_a_key_the_same_bytes_are_one_message_while_it_is_pending_and_no_longer
                    of_a_b_a_under_one_id_the_last_wins
                    a_delivery_of_a_start_that_was_forgotten_is_refused;
                arrivals:
                    reading_does_not_remove_and_the_last_write_wins
                    senders_do_not_hide_each_others_mail
                    an_unnamed_sender_is_told_apart_from_all_others
                    deliveries_without_an_identity_all_count_as_new
                    a_late_retry_of_an_older_message_never_replaces_a_newer_one
                    what_was_accepted_last_wins_also_when_an_earlier_start_of_its_sender_is_heard_of_later
                    many_at_once_are_stored_as_one_by_one
                    arrivals_of_all_sizes_are_read_whole_and_in_pieces;
                known:
                    a_repeated_delivery_changes_nothing_even_after_release_and_restart
                    a_repeated_delivery_changes_nothing_after_its_message_expired
                    what_was_delivered_is_known_with_its_gaps_and_nothing_else
                    numbers_beyond_all_doubles_are_told_apart
                    starts_of_a_sender_are_ordered_beyond_all_doubles
                    each_sender_and_each_start_has_a_memory_of_its_own;
                settling:
                    settled_messages_stay_settled
                    the_low_water_mark_never_passes_a_pending_number
                    the_low_water_mark_is_that_of_its_peer
                    what_is_pending_keeps_its_identity_and_no_identity_is_used_twice
                    loading_many_gives_what_loading_each_gives
                    settling_what_is_not_pending_changes_nothing
                    many_are_settled_at_once_and_unknown_ones_are_passed_over;
                letters:
                    pending_messages_expire_into_dead_letters_that_can_be_retried_and_dropped
                    a_dead_letter_stays_when_a_newer_message_takes_its_id
                    dead_letters_keep_within_their_bound_and_the_oldest_go
                    a_letter_larger_than_the_bound_takes_no_other_along_and_stays_until_the_next_of_its_kind
                    a_smaller_bound_keeps_the_small_letters_before_the_large_ones
                    dead_letters_are_listed_in_pages_with_their_reasons
                    a_retried_letter_supersedes_what_is_pending_under_its_id
                    with_reject_a_letter_is_not_retried_over_another_message_of_its_id
                    a_letter_can_be_retried_or_dropped_once
                    dead_letters_are_counted_by_reason_and_opened_with_their_content;
                expiry:
                    messages_expire_in_service_time_only
                    expired_messages_are_nowhere
                    what_is_pending_says_how_long_it_has
                    nothing_ends_before_its_time_by_rounding
                    nothing_expires_without_a_limit;
                reading:
                    the_time_of_a_message_counts_from_its_first_reading
                    what_nobody_reads_becomes_a_dead_letter_with_its_bytes
                    a_dead_letter_of_the_mailbox_can_be_put_back_with_its_whole_time
                    a_dead_letter_takes_no_place_of_a_newer_message
                    a_plain_read_gives_what_nobody_has_read_first
                    two_unread_messages_of_different_senders_are_refused_with_their_names
                    what_was_read_stays_read_over_every_end
                    dead_letters_of_both_directions_keep_within_one_bound
                    a_life_without_an_end_has_none
                    noting_what_is_not_there_changes_nothing;
                topics:
                    a_topic_is_found_in_memory_on_disk_and_after_a_restart_and_released_whole
                    a_topic_comes_in_pages_in_the_order_of_arrival
                    a_prefix_is_taken_by_its_letters
                    what_is_held_is_listed_newest_first
                    what_was_found_is_opened_until_it_ends
                    only_the_senders_that_are_meant_are_released;
                listing:
                    all_pages_give_everything_once_in_the_order_of_arrival
                    what_ends_or_comes_between_two_pages_hides_nothing_that_stays
                    a_prefix_that_is_a_whole_id_finds_it_and_what_is_longer;
                tracking:
                    what_became_of_a_message_can_be_asked
                    what_became_of_an_arrival_can_be_asked_by_its_sender
                    a_message_is_tracked_through_death_retry_and_delivery
                    an_expired_message_is_a_dead_letter_to_whoever_asks
                    pending_messages_are_listed_with_their_ids
                    expired_mail_is_counted;
                uploads:
                    what_came_in_pieces_is_the_same_after_a_restart_whatever_the_pieces_were
                    an_upload_that_is_dropped_leaves_nothing
                    an_upload_says_what_is_durable
                    small_messages_and_barriers_do_not_wait_for_an_upload
                    the_place_in_the_order_is_that_of_the_end
                    nothing_of_an_upload_is_visible_before_its_end
                    what_ends_while_it_is_read_ends_with_an_error_or_whole
                    uploads_beside_each_other_do_not_mix;
                room:
                    a_full_store_refuses_new_messages_only_and_accepts_again_when_there_is_room
                    a_store_full_of_mail_takes_more_when_that_is_released
                    of_many_that_do_not_all_fit_some_are_accepted_and_each_is_answered_truly
                    a_full_store_refuses_an_upload_and_takes_the_next_when_there_is_room
                    a_length_beyond_reason_is_refused_and_is_no_panic
                    of_two_uploads_that_fit_one_by_one_one_gets_through;
                reuse:
                    with_reject_the_same_bytes_are_accepted_again_and_others_are_a_conflict
                    with_reject_an_upload_must_bring_the_same_bytes_again
                    with_reject_large_messages_are_compared_to_the_last_byte
                    with_reject_an_id_is_free_again_when_its_message_ended
                    with_reject_each_of_many_is_compared
                    with_reject_what_is_held_counts_after_every_end;
                names:
                    ids_of_any_characters_and_the_longest_are_kept
                    parties_of_any_characters_and_the_longest_are_kept
                    names_that_read_alike_when_joined_are_told_apart;
            }
        }
    };
}
