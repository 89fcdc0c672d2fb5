"""The HTTP server: `pynanochat serve RUN` opens a chat page and an API that OpenAI's clients speak.

server.py starts and drains, connection.py guards each socket, gate.py each request, app.py has the routes.
read_request.py checks bodies, answers.py and texts.py answer them, answer.py makes text of tokens, replies.py JSON;
desk.py admits and counts.
"""
