// Draws the API page from the document beside it.
window.ui = SwaggerUIBundle({
  url: "/docs/api/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  tryItOutEnabled: true,
  // The default asks a service elsewhere to check the document.
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
