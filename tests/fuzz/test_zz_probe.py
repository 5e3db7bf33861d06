import json
from collections import Counter
from tests.fuzz.test_body_fuzz import *
def test_probe(target):
    c=Counter(); kinds=Counter()
    orig=Target.post
    def post(self, body):
        s,a=orig(self,body); c[s]+=1
        if s!=200: kinds[json.loads(a)["error"]["message"][:70]]+=1
        return s,a
    Target.post=post
    t=time.monotonic()
    try: fuzz(target, settings(QUICK, max_examples=700))
    finally: Target.post=orig
    print(c, time.monotonic()-t); print(*kinds.most_common(45), sep="\n")
    for n in ("counted","uncounted"):
        a=target.shelf.alias[n]
        for extra in (b'"response_format":"\\ud800"', b'"tools":[{"type":"function","x":"\\ud800"}]', b'"prediction":'+b'['*900+b']'*900, b'"prediction":'+b'{"a":'*500+b'1'+b'}'*500,b'"functions":1e999', b'"functions":NaN', b'"functions":[1'+b'0'*5000+b']', b'"prediction":"\\u0000"',b'"user":'+b'['*100000+b']'*100000,b'"messages":[{"role":"user","content":"x","a":"\\ud800"}]',b'"messages":[{"role":"user","content":null,"a":{"b":"\\ud800"}}]',b'"messages":[{"role":"user","content":null,"a":{"\\ud800":1}}]',b'"\\ud800":1', b'"messages":[{"role":"user","content":[{"type":"text","x":{"b":"\\ud800"}}]}]', b'"messages":[{"role":"user","content":[{"type":"image_url","x":"\\ud800"}]}]', b'"functions":"\\uZZZZ"',b'"user":"\\uZZZZ"',b'"user":"\x01"',b'"user":01',b'"user":tru'):
            s,b=target.post(b'{"messages":[{"role":"user","content":"hi"}],"model":"'+a.encode()+b'",'+extra+b'}')
            print(n,s,extra[:50],b[:150] if s!=200 else '')
