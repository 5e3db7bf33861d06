"""Two workers on one ledger: what is held, charged, limited and revoked is so in both of them."""

import pytest

from tests.faults.test_balance_races import (
    patient_rig,
    test_a_race_of_json_and_streams_never_takes_more_than_there_is,
    test_a_rich_account_is_checked_like_any_other,
    test_thousands_at_once_on_a_balance_for_forty_serve_forty_and_refuse_the_rest,
)
from tests.faults.test_charging import (
    test_a_lying_provider_takes_what_is_available_and_no_more,
    test_a_stream_that_breaks_is_free_and_says_so_in_band,
    test_an_answer_is_charged_exactly_once_and_says_how_much,
)
from tests.faults.test_keys_and_scope import (
    test_a_change_is_not_missed_though_its_writer_was_slow,
    test_a_key_under_load_is_refused_within_a_second_of_its_end,
)
from tests.faults.test_leaving import test_leaving_at_any_moment_leaves_nothing_held
from tests.faults.test_ledger import test_a_notebook_grants_a_hundred_times_while_thirty_two_clients_are_served
from tests.faults.test_limits import test_requests_are_limited_by, test_requests_at_once_are_limited_by
from tests.faults.test_pinned_prices import test_an_edit_in_flight_does_not_change_the_bill

__all__ = [
    "patient_rig",
    "test_a_change_is_not_missed_though_its_writer_was_slow",
    "test_a_key_under_load_is_refused_within_a_second_of_its_end",
    "test_a_lying_provider_takes_what_is_available_and_no_more",
    "test_a_notebook_grants_a_hundred_times_while_thirty_two_clients_are_served",
    "test_a_race_of_json_and_streams_never_takes_more_than_there_is",
    "test_a_rich_account_is_checked_like_any_other",
    "test_a_stream_that_breaks_is_free_and_says_so_in_band",
    "test_an_answer_is_charged_exactly_once_and_says_how_much",
    "test_an_edit_in_flight_does_not_change_the_bill",
    "test_leaving_at_any_moment_leaves_nothing_held",
    "test_requests_are_limited_by",
    "test_requests_at_once_are_limited_by",
    "test_thousands_at_once_on_a_balance_for_forty_serve_forty_and_refuse_the_rest",
]

pytestmark = pytest.mark.drill
