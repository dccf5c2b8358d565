// Swagger UI over the server's own description, at /docs. Its scripts and styles are those of the package fastapi-offline.
"use strict";

SwaggerUIBundle({ url: document.getElementById("docs").dataset.src, dom_id: "#docs", deepLinking: true, validatorUrl: null });
