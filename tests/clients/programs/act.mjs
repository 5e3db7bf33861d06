// Plays a scene with one library and prints what its user would see, as JSON: the same acts as in act.py.

const SCENE = JSON.parse(process.env.SCENE);
const PICTURE =
  "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
export const PARAMETERS = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
export const WEATHER = {
  type: "function",
  function: { name: "weather", description: "The weather of a city.", parameters: PARAMETERS },
};

export const weather = ({ city }) => `rain in ${city}`;

// The messages of an ask, as the API has them.
export function messagesOf({ text, picture }) {
  if (!picture) return [{ role: "user", content: text }];
  return [{ role: "user", content: [{ type: "text", text }, { type: "image_url", image_url: { url: picture } }] }];
}

// Every act of the scene. `useTool` gives the arguments that the tool was called with, and the last words.
export async function play(chat, useTool) {
  const { alias } = SCENE;
  const plain = {
    baseURL: SCENE.base_url, key: SCENE.key, model: alias.says, text: "Hello there", picture: null, stream: false, json: false,
    retries: 0,
  };
  const changed = ({ base_url, ...other }) => ({ ...plain, ...other, ...(base_url ? { baseURL: base_url } : {}) });
  if (SCENE.asks) {
    const said = [];
    for (const ask of SCENE.asks) said.push(await fault(chat, { ...changed(ask), retries: undefined }));
    console.log(JSON.stringify(said));
    return;
  }
  const order = { ...plain, model: alias.obeys, text: 'CALL weather {"city": "Oslo"}' };
  const seen = {};
  for (const [manner, stream] of [["plain", false], ["streamed", true]]) {
    seen[manner] = await chat({ ...plain, stream });
    seen[`${manner} tool`] = await useTool({ ...order, stream });
    seen[`${manner} picture`] = await chat({ ...plain, stream, picture: PICTURE });
  }
  seen.json = await chat({ ...plain, model: alias.json, json: true });
  seen["outage that passes"] = await chat({ ...plain, model: alias.flaky, retries: undefined });
  for (const [name, other] of Object.entries(SCENE.refusals)) {
    for (const stream of [false, true]) {
      seen[`${name} ${stream ? "streamed" : "plain"}`] = await fault(chat, { ...changed(other), stream });
    }
  }
  seen.cut = await fault(chat, { ...plain, model: alias.cut, stream: true });
  console.log(JSON.stringify(seen));
}

async function fault(chat, ask) {
  try {
    return { said: (await chat(ask)).text };
  } catch (error) {
    return { error: error.constructor.name, text: error.message ?? String(error) };
  }
}
