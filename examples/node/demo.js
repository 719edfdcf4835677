// npm install --no-package-lock && node demo.js [http://localhost:8000]
// An API key is taken from the environment variable ILLUSTRIOUS_API_KEY.

const fs = require('fs');
const { IllustriousAIClient } = require('./client');

(async () => {
    const client = new IllustriousAIClient(process.argv[2], { apiKey: process.env.ILLUSTRIOUS_API_KEY });

    const status = await client.checkStatus();
    console.log('Status:', status && status.models);

    const picture = await client.generateImage('a rocket', { steps: 25, guidance: 5, seed: 42 });
    if (picture) {
        fs.writeFileSync('rocket.png', picture);
        console.log('Image saved as rocket.png');
        console.log('Analysis:', await client.analyzeImage('rocket.png', 'What is this?'));
    }

    const answer = await client.chat('Hello, how are you?', 'node-demo');
    console.log('AI:', answer && answer.response);

    process.exitCode = status && picture && answer ? 0 : 1;
})();
