"""What real clients need of the wire, against a running gateway. Each line of the list of clients, and the tests that prove it.

A name alone is a test of this folder; `folder/file::test` is one elsewhere. (D) marks what real programs do in `make drills`;
the rest is checked by `make test` on SQLite, and by `make drills` on PostgreSQL and Redis with two workers as well.

    1    test_1_a_key_that_is_none_gets_401_as_json_and_is_never_echoed
         test_1_the_word_bearer_is_read_in_any_case
    2    test_2_every_error_is_an_object_whose_message_alone_says_what_to_do
         test_every_refusal_is_shown_to_the_user_in_our_words (D)
    3    test_3_without_credits_402_says_how_to_top_up_before_any_upstream_call
    4    test_4_a_429_says_when_to_come_back_in_every_dialect
         test_4_answers_that_were_served_carry_the_limits_too
         test_retry_after_is_waited_for_and_nothing_storms (D)
    5    test_5_what_waiting_cannot_mend_says_so_and_what_it_can_does_not
         test_5_a_refused_request_is_cheap_no_provider_no_hold_no_record
         test_what_waiting_cannot_mend_is_sent_once (D)
    6    test_6_a_body_that_is_no_request_gets_400_naming_the_field
         test_6_bytes_that_are_no_utf_8_get_400
         test_6_a_body_of_the_responses_api_is_told_so_in_a_sentence
         test_cursors_agent_mode_is_told_in_a_sentence_that_its_body_is_of_another_api
    7    test_7_a_context_that_is_too_long_keeps_its_code
         test_7_what_is_between_us_and_the_provider_stays_there
         test_7_our_credential_is_struck_out_of_a_providers_words
         test_7_error_bodies_of_any_kind_become_json
    8    test_8_a_200_that_is_no_answer_is_a_failure_and_costs_nothing
         test_8_json_where_events_were_asked_for_is_never_silence
         test_8_json_that_is_no_completion_is_a_502
         test_8_a_whole_answer_cut_short_is_a_502_and_costs_nothing
    9    test_9_an_unknown_path_is_a_404_in_json
         test_9_a_wrong_method_is_a_405_in_json
         test_9_every_answer_has_a_request_id_of_ours_and_never_the_clients
         test_an_endpoint_that_there_is_not_is_a_404_that_names_the_one_there_is
    10   test_10_the_headers_are_those_of_an_event_stream_and_accept_is_not_negotiated
         test_10_the_headers_go_out_before_the_first_token
    11   test_11_12_14_16_whatever_a_provider_sends_goes_out_in_one_dialect
         test_11_lines_that_are_no_data_do_not_pass
    12   test_11_12_14_16_whatever_a_provider_sends_goes_out_in_one_dialect
         test_12_nothing_follows_done
         test_12_a_stream_that_only_says_done_still_gets_its_finish_reason
    13   test_13_usage_comes_once_last_and_alone_when_asked_with_the_cost_in_it
         test_13_usage_does_not_come_unasked
         test_the_request_is_served_reaches_the_provider_whole_and_is_charged_once
    14   test_11_12_14_16_whatever_a_provider_sends_goes_out_in_one_dialect
    15   test_15_a_failure_after_the_first_byte_is_one_error_event_and_the_end
         test_15_an_event_that_is_no_chunk_breaks_the_stream_off
         test_a_stream_that_breaks_off_is_an_error_event_whoever_asked
         test_a_stream_that_breaks_off_is_never_taken_for_a_whole_answer (D)
    16   test_11_12_14_16_whatever_a_provider_sends_goes_out_in_one_dialect
         test_16_an_event_in_several_data_lines_is_one
         test_16_events_may_be_cut_by_packets_at_any_byte
         test_16_half_characters_written_as_escapes_do_not_break_a_stream
         test_16_a_well_formed_event_passes_byte_by_byte_but_for_the_alias
         test_16_events_written_with_blanks_mean_the_same_afterwards
    17   test_17_a_comment_comes_while_the_provider_pauses_between_words
         test_17_comments_come_before_the_first_word_even_without_headers_from_the_provider
         test_17_after_comments_a_provider_that_stays_silent_becomes_an_error_in_the_stream
         test_17_the_official_client_reads_past_comments_and_whole_answers_have_none
    18   test_18_every_field_passes_with_its_own_bytes
         test_18_stop_is_a_string_or_a_list
         test_18_the_bound_goes_up_under_the_name_that_the_client_used
         test_the_request_is_served_reaches_the_provider_whole_and_is_charged_once
    19   test_19_messages_of_every_kind_pass_untouched
    20   test_20_a_whole_answer_passes_byte_by_byte_but_for_the_alias
         test_20_the_usage_of_a_stream_keeps_its_details
         test_20_the_pieces_of_a_tool_call_make_its_arguments
    21   test_21_none_of_the_clients_headers_goes_upstream
         test_the_request_is_served_reaches_the_provider_whole_and_is_charged_once
    22   test_22_the_list_has_what_clients_read_and_no_more_than_the_key_may_call
         test_22_prices_are_decimal_strings_of_usd_per_token
         test_22_the_query_string_is_ignored
         test_22_the_list_comes_within_100_ms
         test_22_a_key_is_verified_here
         test_a_key_is_verified_by_the_list_of_models
    23   test_23_one_model_by_its_name_however_it_is_written
         test_23_a_model_that_cannot_be_called_is_404
         test_23_head_and_a_trailing_slash
    24   test_24_keep_alive_survives_a_401_with_an_unread_2_mb_body
         test_24_keep_alive_survives_a_stream_and_an_error_within_one
         test_24_expect_100_continue_is_answered_before_the_body
         test_24_a_body_may_come_in_chunks
         test_24_json_is_read_whatever_the_content_type_says
         test_24_an_upgrade_to_h2c_is_ignored
    25   test_25_a_preflight_is_answered_without_a_key
         test_25_answers_and_errors_may_be_read_by_scripts_of_any_page
         test_25_nothing_outside_v1_may_be_read_by_other_pages
    26   test_26_a_client_that_leaves_before_any_output_is_noticed_at_once_and_pays_nothing
         test_26_a_client_that_leaves_during_output_is_noticed_while_the_provider_is_still_talking
         faults/test_leaving::test_leaving_at_any_moment_leaves_nothing_held
"""
