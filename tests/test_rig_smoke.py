from tests.rig import Price, Rig


async def test_a_call_is_answered_and_charged_exactly(rig: Rig) -> None:
    alias = rig.alias("sim:words=7", price=Price("0.27", "1.10"))
    ada = rig.customer(models=[alias])
    answer = await rig.chat(ada, alias)
    assert answer.status == 200
    usage = answer.json["usage"]
    assert rig.spent_nano(ada) == Price("0.27", "1.10").charge_nano(usage["prompt_tokens"], usage["completion_tokens"])
    streamed = await rig.chat(ada, alias, stream=True)
    assert streamed.is_done
    await rig.settled(ada, records=2)
