//! The list of all rules, kept once, and the macros that read it.

/// Hands the list to a macro: `$then! { args { rules } { rules that need transactions } }`. A rule
/// marked `overlapping` makes calls that overlap.
#[doc(hidden)]
#[macro_export]
macro_rules! __motorpool_rules {
    ([$($then:tt)+] $args:tt) => {
        $($then)+! {
            $args
            {
                register {
                    register_new_is_created,
                    register_keeps_role_and_date,
                    register_ids_rise,
                    register_again_returns_the_stored_user_unchanged,
                    register_again_shows_the_user_as_it_is_now,
                    register_again_burns_no_id,
                    register_race_has_one_winner overlapping,
                    register_race_of_eight_names_has_eight_winners overlapping,
                    register_after_delete_is_created_with_a_new_id,
                    get_by_username_finds_the_user_of_that_name,
                }
                buy {
                    buy_returns_the_stored_car,
                    buy_again_without_a_key_is_another_car,
                    buy_unknown_owner_stores_nothing,
                    buy_unknown_owner_burns_no_id,
                    buy_for_a_deleted_owner_is_refused,
                    buy_with_key_again_returns_the_same_car,
                    buy_with_key_again_burns_no_id,
                    buy_with_another_key_is_another_car,
                    buy_key_race_has_one_car overlapping,
                    buy_key_race_of_two_models_has_one_model overlapping,
                    buy_race_without_keys_stores_every_car overlapping,
                    buy_key_reused_for_another_model_is_refused,
                    buy_key_reused_for_another_owner_is_refused,
                    buy_key_reused_for_an_unknown_owner_is_a_reused_key,
                    buy_key_reused_burns_no_id,
                    buy_key_of_a_refused_purchase_stays_free,
                    buy_key_goes_with_the_car_to_its_new_owner,
                    buy_key_of_a_deleted_car_buys_again,
                }
                owned_by {
                    owned_by_is_in_order_of_purchase,
                    owned_by_keeps_its_order_through_updates_and_deletes,
                    owned_by_an_unknown_user_is_empty,
                    owned_by_follows_a_transfer,
                    owned_by_many_has_an_entry_for_every_owner,
                    owned_by_many_asked_twice_for_an_owner_answers_once,
                    owned_by_many_answers_as_owned_by_does,
                }
                change {
                    rename_changes_the_name_alone,
                    rename_moves_the_name,
                    rename_to_its_own_name_changes_nothing,
                    rename_to_a_taken_name_is_refused,
                    rename_an_unknown_user_is_not_found_even_to_a_taken_name,
                    rename_race_for_one_name_has_one_winner overlapping,
                    set_role_changes_the_role_alone,
                    set_role_of_an_unknown_user_is_not_found,
                    transfer_changes_the_owner_alone,
                    transfer_to_its_owner_changes_nothing,
                    transfer_of_an_unknown_car_is_not_found,
                    transfer_from_another_than_the_owner_is_refused,
                    transfer_to_an_unknown_user_is_refused,
                    transfer_reports_car_then_owner_then_recipient,
                    transfer_race_has_one_winner overlapping,
                    delete_user_removes_that_user_alone,
                    delete_user_that_is_not_there_is_false,
                    delete_user_with_cars_is_refused,
                    delete_user_whose_cars_are_gone_is_true,
                    delete_user_race_with_buy_leaves_no_orphan overlapping,
                    delete_car_removes_that_car_alone,
                    delete_car_that_is_not_there_is_false,
                    delete_race_has_one_winner overlapping,
                }
                many {
                    many_of_none_is_empty,
                    many_of_one_is_as_one,
                    many_70_000_users_are_registered_in_the_order_given,
                    many_70_000_cars_are_bought_in_the_order_given,
                    many_70_000_owners_each_have_an_entry,
                    register_many_answers_created_and_existing_in_place,
                    register_many_creates_a_repeated_name_at_its_first_place,
                    register_many_burns_no_id_for_names_it_finds,
                    register_many_race_gives_each_name_one_winner overlapping,
                    get_many_answers_each_known_id_once_in_order,
                    buy_many_without_keys_buys_every_duplicate,
                    buy_many_with_a_repeated_key_buys_one_car,
                    buy_many_again_returns_the_same_cars,
                    buy_many_names_the_first_unknown_owner_and_stores_nothing,
                    buy_many_refused_burns_no_id,
                    buy_many_names_the_first_reused_key_and_stores_nothing,
                    buy_many_refuses_a_key_used_by_an_earlier_item,
                    buy_many_reports_the_first_bad_item_and_its_key_first,
                    buy_many_race_with_the_same_keys_buys_each_once overlapping,
                }
                pages {
                    page_limits_are_1_to_1000,
                    page_of_an_empty_store_is_empty,
                    pages_of_users_are_in_order_and_end,
                    pages_show_every_row_once_while_others_insert_and_delete,
                    pages_after_keys_that_nothing_has,
                    pages_of_cars_show_the_owners_cars_in_order,
                    pages_of_cars_after_the_car_of_another,
                }
                streams {
                    stream_of_an_empty_store_is_empty,
                    stream_gives_everything_in_order_of_id,
                    stream_gives_12_000_rows_in_order_of_id,
                    stream_gives_every_row_once_while_others_insert_and_delete,
                    stream_dropped_halfway_leaves_the_store_usable,
                    stream_that_has_ended_stays_ended,
                }
                ids {
                    ids_that_no_user_has_find_no_user,
                    ids_that_no_user_has_change_no_user,
                    ids_that_no_user_has_own_no_car,
                    ids_that_no_user_has_buy_no_car,
                    ids_that_no_car_has_find_and_change_no_car,
                    ids_that_no_user_has_transfer_no_car,
                }
                text {
                    hostile_usernames_are_stored_byte_for_byte,
                    hostile_usernames_go_through_rename_byte_for_byte,
                    hostile_models_are_stored_byte_for_byte,
                    hostile_text_goes_through_many_byte_for_byte,
                    names_that_differ_in_any_character_are_different_users,
                    looking_up_an_impossible_name_finds_nobody,
                    rename_to_an_impossible_name_is_refused,
                    impossible_new_users_and_cars_cannot_be_made,
                    dates_that_cannot_be_stored_are_refused,
                    dates_at_the_ends_are_stored,
                }
            }
            {
                transactions {
                    commit_shows_the_changes,
                    commit_of_nothing_is_fine,
                    rollback_hides_every_change,
                    rollback_frees_names_and_keys,
                    dropping_the_handle_hides_the_changes,
                    changes_are_seen_inside_and_not_outside_until_commit overlapping,
                    a_commit_loses_nothing_that_others_store_meanwhile,
                    read_committed_sees_what_others_commit overlapping,
                    repeatable_read_sees_what_its_first_statement_saw overlapping,
                    repeatable_read_gives_way_to_a_concurrent_change overlapping,
                    domain_error_of_users_leaves_the_transaction_usable,
                    domain_error_of_cars_leaves_the_transaction_usable,
                    a_user_and_its_car_are_registered_together_or_not_at_all,
                    a_handle_is_closed_after_commit,
                    a_handle_is_closed_after_rollback,
                    clones_of_a_handle_share_one_transaction overlapping,
                    the_closure_form_commits_on_ok,
                    the_closure_form_rolls_back_on_err,
                    a_read_only_transaction_refuses_writes,
                    a_read_only_transaction_can_read_and_commit,
                }
                streams {
                    stream_in_repeatable_read_is_one_snapshot overlapping,
                }
                failures {
                    commit_after_a_swallowed_failure_is_an_error_and_stores_nothing overlapping,
                    commit_after_a_refused_write_is_an_error,
                    a_failed_transaction_can_be_rolled_back overlapping,
                    the_closure_form_runs_again_after_a_conflict overlapping,
                    the_closure_form_ends_after_its_last_attempt overlapping,
                    the_closure_form_runs_once_for_any_other_error,
                    a_savepoint_keeps_on_ok_and_undoes_on_err,
                    savepoints_nest,
                    a_failure_in_a_savepoint_leaves_the_transaction_usable overlapping,
                    a_swallowed_failure_in_a_savepoint_undoes_it overlapping,
                    a_savepoint_dropped_unfinished_fails_what_is_around_it,
                    savepoints_that_cross_are_undone,
                    a_savepoint_that_has_ended_ends_no_other,
                    a_savepoint_of_an_ended_transaction_is_closed,
                }
            }
        }
    };
}

/// The list as a slice of [`Rule`](crate::contract::Rule).
#[doc(hidden)]
#[macro_export]
macro_rules! __motorpool_rule_slice {
    (
        ()
        { $( $topic:ident { $( $rule:ident $( $overlapping:ident )? , )* } )* }
        { $( $tx_topic:ident { $( $tx_rule:ident $( $tx_overlapping:ident )? , )* } )* }
    ) => {
        &[
            $( $( $crate::__motorpool_rule!(false, $topic $rule $( $overlapping )?), )* )*
            $( $( $crate::__motorpool_rule!(true, $tx_topic $tx_rule $( $tx_overlapping )?), )* )*
        ]
    };
}

/// One entry of the list as a [`Rule`](crate::contract::Rule).
#[doc(hidden)]
#[macro_export]
macro_rules! __motorpool_rule {
    ($transactions:literal, $topic:ident $rule:ident) => {
        $crate::__motorpool_rule!(@ $transactions, false, $topic $rule)
    };
    ($transactions:literal, $topic:ident $rule:ident overlapping) => {
        $crate::__motorpool_rule!(@ $transactions, true, $topic $rule)
    };
    (@ $transactions:literal, $connections:literal, $topic:ident $rule:ident) => {
        $crate::contract::Rule::new(
            ::core::stringify!($rule),
            $transactions,
            $connections,
            |store| ::std::boxed::Box::pin($crate::contract::$topic::$rule(store)),
        )
    };
}

/// Makes a module with one test for each rule of the [contract](crate::contract):
/// `contract_tests!(module, run)`, or `contract_tests!(module, run, without transactions)` for a
/// store that cannot begin one.
///
/// `run` is an `async fn(Rule)` beside the call (or a path from there) that makes a fresh, empty
/// store and runs the rule on it. Each test runs it on a runtime of two threads; the caller needs
/// `tokio` with `macros` and `rt-multi-thread` among its dev-dependencies.
///
/// ```
/// use motorpool::contract::Rule;
///
/// async fn run_on_memory(rule: Rule) {
///     rule.run(&motorpool::MemoryStore::new()).await;
/// }
///
/// motorpool::contract_tests!(memory, run_on_memory);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! contract_tests {
    ($module:ident, $($run:ident)::+ $(,)?) => {
        $crate::__motorpool_rules! {
            [$crate::__motorpool_tests] (all $module [$($run)::+])
        }
    };
    ($module:ident, $($run:ident)::+, without transactions $(,)?) => {
        $crate::__motorpool_rules! {
            [$crate::__motorpool_tests] (without_transactions $module [$($run)::+])
        }
    };
}

/// The tests of [`contract_tests`](crate::contract_tests).
#[doc(hidden)]
#[macro_export]
macro_rules! __motorpool_tests {
    ((all $module:ident $run:tt) { $($rules:tt)* } { $($tx_rules:tt)* }) => {
        mod $module {
            $crate::__motorpool_tests!(false $run $($rules)*);
            $crate::__motorpool_tests!(true $run $($tx_rules)*);
        }
    };
    ((without_transactions $module:ident $run:tt) { $($rules:tt)* } { $($tx_rules:tt)* }) => {
        mod $module {
            $crate::__motorpool_tests!(false $run $($rules)*);
        }
    };
    ($transactions:literal $run:tt $( $topic:ident { $($rules:tt)* } )*) => {
        $( $crate::__motorpool_tests!(@ $transactions $run $topic $($rules)*); )*
    };
    (@ $transactions:literal $run:tt $topic:ident
        $( $rule:ident $( $overlapping:ident )? , )*
    ) => {
        $( $crate::__motorpool_test!($transactions $run $topic $rule $( $overlapping )?); )*
    };
}

/// One test.
#[doc(hidden)]
#[macro_export]
macro_rules! __motorpool_test {
    ($transactions:literal [$($run:tt)+] $topic:ident $rule:ident $( $overlapping:ident )?) => {
        #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $rule() {
            super::$($run)+(
                $crate::__motorpool_rule!($transactions, $topic $rule $( $overlapping )?)
            )
            .await;
        }
    };
}
