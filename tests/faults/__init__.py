"""What breaks real gateways, done to this one. Each row of the list of faults, and the tests that prove it.

A name alone is a test of this folder; `folder/file::test` is one elsewhere. All of this folder is run on SQLite by `make test`
and on PostgreSQL and Redis with two workers by `make drills`; (S) and (C) mark what is about one of the two alone.

    1    test_leaving_in_mid_stream_is_charged_what_the_provider_counted_once
         test_past_the_bound_the_part_that_came_is_estimated_and_flagged
    2    test_leaving_before_the_first_token_is_free_and_ends_the_call
    3    test_leaving_a_whole_answer_is_free_but_its_tokens_stay_counted
    4    test_leaving_at_any_moment_leaves_nothing_held
    5    test_a_stream_that_breaks_is_free_and_says_so_in_band
    6    test_a_stream_that_breaks_is_free_and_says_so_in_band
    7    test_a_stream_that_breaks_is_free_and_says_so_in_band
    8    test_a_huge_prompt_that_fails_is_not_charged_by_estimate
    9    test_usage_is_asked_of_the_provider_and_hidden_from_who_did_not_ask
         clients/test_streams::test_9_of_the_faults_the_clients_events_equal_the_providers_without_include_usage
    10   test_every_usage_shape_has_the_same_bill
    11   test_every_usage_shape_has_the_same_bill
    12   test_an_explicit_zero_is_a_number_and_free
    13   test_counts_that_cannot_be_right_are_estimated_and_flagged_and_stop_nobody
         test_a_fuzz_of_usage_never_fails_a_request_and_never_bills_nonsense
    14   test_every_usage_shape_has_the_same_bill
         gateway/test_metering::test_every_token_stands_in_one_meter_whatever_the_shape
    15   test_fields_that_would_change_what_a_request_costs_are_refused_by_name
    16   test_numbers_that_would_slip_past_the_hold_are_refused_by_name
    17   test_price_zero_is_admitted_at_balance_zero_and_no_price_is_not
    18   test_an_edit_in_flight_does_not_change_the_bill
    19   test_three_hundred_requests_of_one_token_cost_three_hundred_times_one
         test_credits_are_exact_to_the_last_nano
         gateway/test_metering::test_a_million_requests_of_one_token_cost_what_one_of_a_million_does
    19b  test_every_usage_shape_has_the_same_bill
    20   test_a_slip_of_units_needs_an_explicit_confirmation
    21   test_thousands_at_once_on_a_balance_for_forty_serve_forty_and_refuse_the_rest
         test_a_race_of_json_and_streams_never_takes_more_than_there_is
    22   test_a_rich_account_is_checked_like_any_other
    23   test_thousands_at_once_on_a_balance_for_forty_serve_forty_and_refuse_the_rest
         test_a_balance_is_one_balance_on_two_machines (C)
    24   drills/test_kills::test_killed_at_any_moment_of_a_mixed_load
         drills/test_outages::test_postgresql_is_away_for_half_a_minute_under_load (C)
    25   test_a_settlement_is_repeated_after_a_failure_of_any_of_its_writes_and_counts_once
         gateway/test_batching::test_what_could_not_be_done_yet_comes_first_the_next_time
    26   test_a_flush_under_load_changes_no_balance_and_refuses_nobody (C)
    27   test_a_lying_provider_takes_what_is_available_and_no_more
         test_a_lying_provider_does_not_touch_what_is_held_for_others
    28   test_settling_and_releasing_race_and_one_of_them_counts
         models/test_money::test_a_negative_charge_is_refused
    29   test_a_large_request_that_is_refused_takes_no_small_one_with_it
    30   test_two_hundred_streams_are_finished_and_charged_and_nobody_else_is_admitted
         test_past_its_bound_a_stream_ends_with_an_error_and_nothing_is_charged
         test_one_is_restarted_while_the_other_serves (C)
    31   test_everything_is_killed_at_once
         test_one_worker_is_killed_and_another_takes_its_place_while_the_others_serve_on (C)
         test_the_main_process_is_killed_and_no_worker_outlives_it (C)
         test_a_frozen_worker_stops_nobody_else_and_goes_on_when_it_wakes (C)
         drills/test_kills::test_killed_again_and_again_with_a_hundred_streams_in_flight
         drills/test_outages::test_a_worker_that_was_taken_for_dead_wakes_up_and_settles_late (C)
    32   gateway/test_batching::test_a_batch_that_was_interrupted_is_applied_again
         test_while_the_database_is_locked_new_requests_get_503_and_settlements_wait (S)
         test_while_accounts_are_locked_new_requests_get_503_and_settlements_wait (C)
    33   test_a_deadlock_is_broken_by_the_database_and_nothing_is_lost_by_it (C)
    34   test_one_corrupt_account_stops_nobody_else_from_being_billed (S)
         test_one_poisoned_account_stops_nobody_else_from_being_billed (C)
    35   test_a_worker_takes_a_handful_of_connections_however_much_is_asked_of_it (C)
         test_without_a_free_slot_new_requests_are_refused_before_any_provider_is_called (C)
    36   test_while_the_database_is_away_running_answers_finish_and_nobody_else_is_served (C)
         drills/test_outages::test_postgresql_is_away_for_half_a_minute_under_load (C)
    37   test_a_notebook_grants_a_hundred_times_while_thirty_two_clients_are_served
    38   test_without_redis_nobody_waits_and_each_worker_admits_its_share (C)
    39   test_without_redis_nobody_waits_and_each_worker_admits_its_share (C)
         test_redis_that_comes_and_goes_multiplies_no_quota
    40   models/test_usage::test_records_can_be_read_page_by_page
         drills/test_large::test_the_books_hold_in_bounded_memory
    40b  test_the_same_x_request_id_twice_is_charged_twice
         test_a_client_cannot_choose_the_request_id
    40c  test_a_change_is_not_missed_though_its_writer_was_slow (C)
    41   test_a_key_under_load_is_refused_within_a_second_of_its_end
         test_an_old_secret_stops_though_the_new_one_was_used_at_once
         test_a_limit_is_one_limit_and_a_revoke_is_one_revoke (C)
    42   test_a_body_cannot_name_a_model_beyond_the_scope
         test_what_is_dispatched_is_what_was_checked
         test_an_address_or_a_header_cannot_name_a_model
         test_a_fallback_stays_inside_its_alias
    43   test_no_endpoint_but_chat_completions_reaches_a_provider
         test_no_endpoint_of_the_api_answers_without_a_key
    44   test_three_workers_share_one_limit_exactly (C)
         test_three_workers_have_as_many_running_at_once_as_one (C)
         test_three_processes_at_the_limit_get_the_quota_and_not_more
    45   test_at_most_four_attempts_are_made_however_many_routes_there_are
         test_a_fallback_that_answers_is_charged_once
    46   test_nothing_is_replayed_once_the_client_has_seen_a_word
    47   test_a_silent_provider_is_given_up_for_the_next_route
         test_a_provider_behind_a_broken_network_is_given_up_and_free
    48   test_the_clients_own_mistakes_are_passed_on_and_not_retried
         test_every_other_status_is_between_us_and_the_provider
    49   test_a_failing_route_rests_and_one_probe_brings_it_back
         test_when_all_routes_rest_the_answer_is_502_and_free_and_the_model_stays_listed
         test_a_failing_route_rests_in_every_worker_and_each_has_one_budget
    50   test_an_answer_may_last_longer_than_every_timeout_as_long_as_it_goes_on
         test_three_hundred_at_once_all_reach_the_provider
         test_an_event_of_a_mebibyte_and_an_answer_of_eight_pass
    51   test_an_endless_line_is_an_error_and_not_memory
         test_an_endless_json_answer_is_an_error_and_not_memory
    52   test_clients_that_do_not_read_slow_their_providers_down_and_are_given_up
    53   test_requests_leave_no_connections_files_or_memory_behind
         drills/test_soak::test_hours_of_mixed_load_and_failing_providers_leave_nothing_behind
"""
