// A client of the studio's HTTP API. Methods give null when something fails, after saying what on the console.

const axios = require('axios');
const fs = require('fs');

// What the server says is wrong: a sentence, or for wrong fields a list of {type, loc, msg}.
function reason(error) {
    const detail = error.response?.data?.detail;
    if (Array.isArray(detail)) {
        return detail.map(({ loc, msg }) => `${loc.slice(1).join('.')}: ${msg}`).join('; ');
    }
    return detail ?? error.message ?? error.code;
}

class IllustriousAIClient {
    constructor(baseUrl = 'http://localhost:8000', { apiKey, timeout = 600_000 } = {}) {
        this.baseUrl = baseUrl;
        this.http = axios.create({
            baseURL: baseUrl,
            timeout, // milliseconds; drawing a large picture takes minutes without a graphics card
            headers: apiKey ? { Authorization: `Bearer ${apiKey}` } : {},
            maxBodyLength: Infinity, // the server has a limit of its own, and says so
        });
    }

    async checkStatus() {
        try {
            return (await this.http.get('/status')).data;
        } catch (error) {
            console.error('Status check failed:', reason(error));
            return null;
        }
    }

    async generateImage(prompt, options = {}) {
        try {
            const { data } = await this.http.post('/generate-image', { prompt, ...options });
            return Buffer.from(data.image_base64, 'base64');
        } catch (error) {
            console.error('Image generation failed:', reason(error));
            return null;
        }
    }

    async chat(message, sessionId = 'default', options = {}) {
        try {
            return (await this.http.post('/chat', { message, session_id: sessionId, ...options })).data;
        } catch (error) {
            console.error('Chat failed:', reason(error));
            return null;
        }
    }

    async analyzeImage(imagePath, question) {
        try {
            const image_base64 = fs.readFileSync(imagePath).toString('base64');
            const { data } = await this.http.post('/analyze-image', { image_base64, ...(question && { question }) });
            return data.analysis;
        } catch (error) {
            console.error('Image analysis failed:', reason(error));
            return null;
        }
    }
}

module.exports = { IllustriousAIClient };
